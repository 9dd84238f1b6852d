"""One crop of an image: random as in supervised training, or the middle as in evaluation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vitlab.data.transforms.color import ColorJitter
from vitlab.data.transforms.random_crop import RandomCrop, make_all, uniforms
from vitlab.data.transforms.transform import (
    Pixels,
    Seed,
    Stack,
    Transform,
    check_probabilities,
    check_ranges,
    check_sizes,
    refuse,
    resize,
    stack_of,
)


@dataclass(eq=False)
class SingleCrop(Transform):
    """One random crop, as supervised classifiers are trained: 3/4 to 4/3 as wide as high.

    Args:
        size: its edge, in pixels.
        scale: smallest and largest share of the image's area that it covers.
        color_jitter: strength of random changes of brightness, contrast and saturation, in random
            order: their factors lie between 1 - color_jitter and 1 + color_jitter.
        flip: probability of a horizontal flip.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    color_jitter: float = 0.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        check_sizes(size=self.size)
        check_ranges(scale=self.scale)
        check_probabilities(color_jitter=self.color_jitter, flip=self.flip)
        jitter = ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter)
        self.crop = RandomCrop(self.size, self.scale, flip=self.flip, jitter=jitter)
        self.min_size = self.crop.min_size

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A random crop of an RGB image."""
        return [stack_of(make_all([self.crop], image, uniforms(seed)))]


@dataclass(eq=False)
class ResizeRandomCrop(Transform):
    """A square at a random place of the image with its short side resized.

    Milder than a crop of random size; prompt tuning (TCPA, arXiv:2505.02406) uses it.

    Args:
        size: edge of the square, in pixels.
        resize_size: short side of the resized image, in pixels; at least `size`.
        flip: probability of a horizontal flip.
    """

    size: int = 224
    resize_size: int = 256
    flip: float = 0.5

    def __post_init__(self) -> None:
        check_sizes(size=self.size)
        check_probabilities(flip=self.flip)
        message = f"would not fit the square; give at least the size, {self.size}"
        refuse(self.resize_size < self.size, "resize_size", self.resize_size, message)
        self.min_size = (self.resize_size, self.resize_size)

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A square of an RGB image."""
        numbers = uniforms(seed)
        resized = _resize_short_side(image, self.resize_size)
        top, left = (int(next(numbers) * (edge - self.size + 1)) for edge in resized.shape[:2])
        crop = resized[top : top + self.size, left : left + self.size]
        if next(numbers) < self.flip:
            crop = crop[:, ::-1]
        return [stack_of(np.ascontiguousarray(crop)[None])]


@dataclass(eq=False)
class CenterCrop(Transform):
    """The square in the middle, as classifiers are evaluated: for 224, the short side becomes 256.

    Args:
        size: edge of the square, in pixels.
        share: of the image's short side that the square covers.
    """

    size: int = 224
    share: float = 0.875

    def __post_init__(self) -> None:
        check_sizes(size=self.size)
        message = "is no part of the image; use a number in (0, 1]"
        refuse(not 0 < self.share <= 1, "share", self.share, message)
        self.resize_size = round(self.size / self.share)

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The middle of the image; nothing is random."""
        resized = _resize_short_side(image, self.resize_size)
        top, left = (round((edge - self.size) / 2) for edge in resized.shape[:2])
        return [stack_of(resized[None, top : top + self.size, left : left + self.size])]


def _resize_short_side(image: Pixels, size: int) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width, _ = image.shape
    short = min(height, width)
    return resize(image, size * height // short, size * width // short)
