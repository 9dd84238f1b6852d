"""One crop with RandAugment or 3-Augment, as supervised classifiers are trained."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from timm.data import auto_augment as timm
from torch import Tensor

from vitlab.data.transforms.color import CHANGES, ColorJitter
from vitlab.data.transforms.random_crop import RandomCrop, random_box, uniforms
from vitlab.data.transforms.transform import (
    MEAN,
    Foreground,
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
from vitlab.rng import seeded_rng

RANDAUGMENT = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)+")
PIL_MODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
GEOMETRIC = ("Shear", "Rotate", "Translate")  # names of timm's operations that move pixels
Interpolation = Literal["bicubic", "bilinear", "random"]


@dataclass(eq=False)
class AugmentedCrop(Transform):
    """A random crop with RandAugment or 3-Augment; the defaults are DeiT's (arXiv:2012.12877).

    In this order: the crop, 3/4 to 4/3 as wide as high; the flip; the augmentation, by timm; the
    color jitter. Random erasing comes after normalization, so it belongs to the objective.

    Args:
        size: edge of the crop, in pixels.
        area: smallest and largest share of the image's that it covers. Not named scale: options of
            the same name stay when a config chooses another transform, and MultiCrop's differ.
        flip: probability of a horizontal flip.
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

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        check_sizes(size=self.size)
        check_ranges(area=self.area)
        check_probabilities(flip=self.flip, color_jitter=self.color_jitter)
        name, jitter = self.auto_augment, self.color_jitter
        refuse(
            name not in ("", "3a") and not RANDAUGMENT.fullmatch(name),
            *("auto_augment", repr(name)),
            "is unknown; use RandAugment as timm spells it, such as rand-m9-mstd0.5-inc1, "
            '"3a" for 3-Augment, or "" for none',
        )
        refuse(
            name.startswith("rand") and jitter > 0,
            *("color_jitter", jitter),
            f"beside auto_augment {name}: timm ignores the jitter then, and RandAugment changes "
            "the colors itself; set color_jitter to 0, or auto_augment to 3a",
        )
        self.min_size = RandomCrop(self.size, self.area).min_size
        self.jitter = ColorJitter(jitter, jitter, jitter)
        mean = tuple(round(255 * value) for value in MEAN)
        self._augment = _augmentation(name, self.size, self.interpolation, fill=mean)
        self._augment_mask = _augmentation(name, self.size, self.interpolation, fill=(0, 0, 0))

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A random crop of an RGB image."""
        crop, drawn, numbers = self._crop(image, seed)
        if self._augment is not None:
            with seeded_rng(drawn):
                crop = np.array(_augmented(self._augment, Image.fromarray(crop)))
        for name, factor in self.jitter.draw(numbers):
            crop = CHANGES[name](np.ascontiguousarray(crop), factor)
        return [stack_of(np.ascontiguousarray(crop)[None])]

    def crop_foreground(self, mask: Foreground, seed: Seed = 0) -> Bool[Tensor, "size size"]:
        """The same crop of a mask; what the augmentation moves in from outside is no object."""
        crop, drawn, _ = self._crop(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2), seed)
        if isinstance(self._augment_mask, timm.RandAugment):  # 3-Augment moves nothing
            with seeded_rng(drawn):
                moved = _augmented(self._augment_mask, Image.fromarray(crop), only=GEOMETRIC)
                crop = np.array(moved)
        return torch.from_numpy(crop[..., 0] >= 128)

    def _crop(
        self, image: Pixels, seed: Seed
    ) -> tuple[UInt8[np.ndarray, "size size 3"], int, Iterator[float]]:
        """The crop, the augmentation's seed, and the remaining random numbers, for the colors."""
        numbers = uniforms(seed)
        box = random_box(image.shape[0], image.shape[1], self.area, numbers)
        mode = self.interpolation
        if mode == "random":
            mode = "bilinear" if next(numbers) < 0.5 else "bicubic"
        step = -1 if next(numbers) < self.flip else 1
        drawn = int(next(numbers) * 2**32) if self._augment is not None else 0
        crop = resize(image[box], self.size, self.size, mode)
        return np.ascontiguousarray(crop[:, ::step]), drawn, numbers


def _augmentation(
    name: str, size: int, interpolation: Interpolation, fill: tuple[int, ...]
) -> Any | None:
    """Timm's augmentation of that name, with the settings of its own training script."""
    if not name:
        return None
    # pixels of the longest translation, and the color of what is moved in
    settings: dict = {"translate_const": int(size * 0.45), "img_mean": fill}
    if interpolation != "random":
        settings["interpolation"] = PIL_MODES[interpolation]
    make = timm.rand_augment_transform if name.startswith("rand") else timm.auto_augment_transform
    return make(name, settings)


def _augmented(augment: Any, image: Image.Image, only: tuple = ()) -> Image.Image:
    """The augmented image; of RandAugment, with the effect of the operations of some names only.

    The others draw their random numbers as well, so an image and its mask move alike. Posterizing
    to 0 bits, which a deviation of the magnitude reaches, gives a black image with the Pillow of
    the published runs, and an error since Pillow 13.
    """
    if not isinstance(augment, timm.RandAugment):
        return augment(image)
    chosen = np.random.choice(  # noqa: NPY002, as timm draws
        augment.ops,
        augment.num_layers,
        replace=augment.choice_weights is None,
        p=augment.choice_weights,
    )
    for operation in chosen:
        try:
            changed = operation(image)
        except ValueError:
            if not operation.name.startswith("Posterize"):
                raise
            changed = Image.new(image.mode, image.size)
        if not only or operation.name.startswith(only):
            image = changed
    return image
