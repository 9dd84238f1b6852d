"""One strongly augmented crop, as supervised classifiers are trained."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from timm.data import auto_augment as timm
from torch import Tensor

from vitlab.data.transforms.color import CHANGES, Jitter
from vitlab.data.transforms.functional import MEAN, resize, stack_of
from vitlab.data.transforms.random_crop import Box, RandomCrop, random_box, uniforms
from vitlab.data.transforms.transform import (
    Pixels,
    Seed,
    Shown,
    Stack,
    Transform,
    check_scale,
    check_share,
    check_size,
)
from vitlab.rng import seeded_rng

RANDAUGMENT = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)+")
PIL_MODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MOVES = (timm.shear_x, timm.shear_y, timm.rotate, timm.translate_x_rel, timm.translate_y_rel)
Interpolation = Literal["bicubic", "bilinear", "random"]
Augment = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Drawn:
    """What happens to an image, but for its colors; a function of its size and the seed.

    Attributes:
        box: the part of the image.
        mode: how it is resampled.
        flip: whether left and right are swapped.
        seed: of the augmentation.
        numbers: those that are left, for the colors.
    """

    box: Box
    mode: Literal["bicubic", "bilinear"]
    flip: bool
    seed: int
    numbers: Iterator[float]


class AugmentedCrop(Transform):
    """A random crop with RandAugment or 3-Augment; the defaults are DeiT's (arXiv:2012.12877).

    In this order: the crop, 3/4 to 4/3 as wide as high; the flip; the augmentation, by timm; the
    color jitter. Random erasing comes after normalization, so it belongs to the objective.

    Args:
        size: edge of the crop, in pixels.
        area: smallest and largest share of the image's that it covers. Not named scale: options of
            the same name stay when a config chooses other views, and MultiCrop's differ.
        flip: probability that left and right are swapped.
        auto_augment: "rand-m9-mstd0.5-inc1" and the like for RandAugment (arXiv:1909.13719) as timm
            spells it: m magnitude of 10, n operations for each image (2), p probability of each
            (0.5), mstd deviation of the magnitude, inc1 for operations that grow with it; "3a" for
            3-Augment, one of gray, solarization and blur (arXiv:2204.07118); "" for none.
        color_jitter: strength of random changes of brightness, contrast and saturation, in random
            order; 0 keeps the colors. timm drops it silently beside RandAugment: here the two
            together are refused.
        interpolation: of the crop and of RandAugment's geometric operations; random chooses
            bilinear or bicubic each time.
    """

    def __init__(
        self,
        size: int = 224,
        area: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        auto_augment: str = "rand-m9-mstd0.5-inc1",
        color_jitter: float = 0.0,
        interpolation: Interpolation = "bicubic",
    ):
        check_size("size", size)
        check_scale("area", area)
        check_share("flip", flip)
        check_share("color_jitter", color_jitter)
        if auto_augment not in ("", "3a") and not RANDAUGMENT.fullmatch(auto_augment):
            raise ValueError(
                f"auto_augment {auto_augment!r} is unknown; use RandAugment as timm spells it, "
                "such "
                "as "
                'rand-m9-mstd0.5-inc1, "3a" for 3-Augment, or "" for none'
            )
        if auto_augment.startswith("rand") and color_jitter:
            raise ValueError(
                f"color_jitter {color_jitter} beside auto_augment {auto_augment}: timm ignores the "
                "jitter then, and RandAugment changes the colors itself; set color_jitter to 0, or "
                "auto_augment to 3a"
            )
        self.size, self.area, self.flip = size, (area[0], area[1]), flip
        self.auto_augment, self.interpolation = auto_augment, interpolation
        self.color_jitter = Jitter(color_jitter, color_jitter, color_jitter)
        self._augment = _augmentation(auto_augment, size, interpolation)
        self._move = _movement(auto_augment, size, interpolation)

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    @property
    def min_size(self) -> tuple[int, int]:
        """Of this size, the smallest crop need not be enlarged."""
        side = RandomCrop(self.size, self.area).min_size
        return side, side

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A random crop of an RGB image."""
        drawn = self._draw(image.shape[0], image.shape[1], seed)
        crop = self._place(image, drawn, self._augment)
        for name, factor in self.color_jitter.draw(drawn.numbers):
            crop = CHANGES[name](np.ascontiguousarray(crop), factor)
        return [stack_of(np.ascontiguousarray(crop)[None])]

    def crop_foreground(self, mask: Shown, seed: Seed = 0) -> Bool[Tensor, "size size"]:
        """The same crop of a mask; what the augmentation moves in from outside is no object."""
        drawn = self._draw(mask.shape[0], mask.shape[1], seed)
        colors = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        moved = self._place(colors, drawn, self._move)
        return torch.from_numpy(moved[..., 0] >= 128)

    def _draw(self, height: int, width: int, seed: Seed) -> Drawn:
        numbers = uniforms(seed)
        box = random_box(height, width, self.area, numbers)
        mode, flip = self._mode(numbers), next(numbers) < self.flip
        augmented = int(next(numbers) * 2**32) if self._augment is not None else 0
        return Drawn(box, mode, flip, augmented, numbers)

    def _place(
        self, image: Pixels, drawn: Drawn, auto_augment: Augment | None
    ) -> UInt8[np.ndarray, "size size 3"]:
        crop = resize(drawn.box.of(image), self.size, self.size, drawn.mode)
        if drawn.flip:
            crop = np.ascontiguousarray(crop[:, ::-1])
        if auto_augment is not None:
            with seeded_rng(drawn.seed):
                crop = np.array(auto_augment(Image.fromarray(np.ascontiguousarray(crop))))
        return crop

    def _mode(self, numbers: Iterator[float]) -> Literal["bicubic", "bilinear"]:
        if self.interpolation == "random":
            return "bilinear" if next(numbers) < 0.5 else "bicubic"
        return self.interpolation


def _augmentation(
    name: str, size: int, interpolation: Interpolation, fill: tuple[float, ...] = MEAN
) -> Augment | None:
    """What timm makes of the name, with the settings of its own training script."""
    if not name:
        return None
    settings: dict = {
        "translate_const": int(size * 0.45),  # pixels
        "img_mean": tuple(round(255 * value) for value in fill),  # fills what is moved in
    }
    if interpolation != "random":
        settings["interpolation"] = PIL_MODES[interpolation]
    if not name.startswith("rand"):
        return timm.auto_augment_transform(name, settings)
    made = timm.rand_augment_transform(name, settings)
    for operation in made.ops:
        if operation.aug_fn is timm.posterize:
            operation.aug_fn = posterize
    return made


def _movement(name: str, size: int, interpolation: Interpolation) -> Augment | None:
    """The same without changes of color; it draws the same numbers, and moves in black."""
    if not name.startswith("rand"):
        return None  # 3-Augment moves nothing
    made = _augmentation(name, size, interpolation, fill=(0.0, 0.0, 0.0))
    for operation in made.ops:  # type: ignore[union-attr]
        if operation.aug_fn not in MOVES:
            operation.aug_fn = _unchanged
    return made


def _unchanged(image: Image.Image, *_: object, **__: object) -> Image.Image:
    return image


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the first bits of each value, as timm does, which fails for none of them.

    Magnitude 10, which a deviation reaches, keeps none: a black image with the Pillow of the
    published runs, an error since Pillow 13.
    """
    return timm.posterize(image, bits) if bits else Image.new(image.mode, image.size)
