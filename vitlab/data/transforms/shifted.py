"""A square of the whole image's scale, at a random place."""

import numpy as np

from vitlab.data.transforms.functional import resize, stack_of
from vitlab.data.transforms.random_crop import uniforms
from vitlab.data.transforms.transform import Pixels, Seed, Stack, Transform, check_share, check_size


class ResizeRandomCrop(Transform):
    """The image with its short side resized, then a square at a random place: Resize, RandomCrop.

    Milder than a crop of random size; prompt tuning (TCPA, arXiv:2505.02406) uses it.

    Args:
        size: edge of the square, in pixels.
        resize_size: short side of the resized image, in pixels; at least `size`.
        flip: probability that left and right are swapped.
    """

    def __init__(self, size: int = 224, resize_size: int = 256, flip: float = 0.5):
        check_size("size", size)
        check_share("flip", flip)
        if resize_size < size:
            raise ValueError(
                f"resize_size {resize_size} is less than size {size}, and the square would not "
                "fit; "
                f"give at least {size}"
            )
        self.size, self.resize_size, self.flip = size, resize_size, flip

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    @property
    def min_size(self) -> tuple[int, int]:
        """The short side that is resized to."""
        return self.resize_size, self.resize_size

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A square of an RGB image."""
        numbers = uniforms(seed)
        height, width = image.shape[:2]
        short = min(height, width)
        resized = resize(
            image, self.resize_size * height // short, self.resize_size * width // short
        )
        top, left = (int(next(numbers) * (edge - self.size + 1)) for edge in resized.shape[:2])
        crop = resized[top : top + self.size, left : left + self.size]
        if next(numbers) < self.flip:
            crop = crop[:, ::-1]
        return [stack_of(np.ascontiguousarray(crop)[None])]
