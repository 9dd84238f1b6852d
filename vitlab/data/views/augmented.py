"""One strongly augmented crop, as supervised classifiers are trained."""

import re
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from PIL import Image
from timm.data import auto_augment as timm

from vitlab.data.views.colors import CHANGES, Jitter
from vitlab.data.views.crop import RandomCrop, random_box, uniforms
from vitlab.data.views.pixels import MEAN, resize, stack_of
from vitlab.data.views.views import Pixels, Seed, Stack, Views, check_scale, check_share, check_size
from vitlab.randomness import seeded

RANDAUGMENT = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)+")
PIL_MODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Interpolation = Literal["bicubic", "bilinear", "random"]


class AugmentedCrop(Views):
    """A random crop with RandAugment or 3-Augment; the defaults are DeiT's (arXiv:2012.12877).

    In this order: the crop, 3/4 to 4/3 as wide as high; the flip; the augmentation, by timm; the
    color jitter. Random erasing comes after normalization, so it belongs to the objective.

    Args:
        size: edge of the crop, in pixels.
        area: smallest and largest share of the image's that it covers. Not named scale: options of
            the same name stay when a config chooses other views, and MultiCrop's differ.
        flip: probability that left and right are swapped.
        augment: "rand-m9-mstd0.5-inc1" and the like for RandAugment (arXiv:1909.13719) as timm
            spells it: m magnitude of 10, n operations for each image (2), p probability of each
            (0.5), mstd deviation of the magnitude, inc1 for operations that grow with it; "3a" for
            3-Augment, one of gray, solarization and blur (arXiv:2204.07118); "" for none.
        jitter: strength of random changes of brightness, contrast and saturation, in random
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
        augment: str = "rand-m9-mstd0.5-inc1",
        jitter: float = 0.0,
        interpolation: Interpolation = "bicubic",
    ):
        check_size("size", size)
        check_scale("area", area)
        check_share("flip", flip)
        check_share("jitter", jitter)
        if augment not in ("", "3a") and not RANDAUGMENT.fullmatch(augment):
            raise ValueError(
                f"augment {augment!r} is unknown; use RandAugment as timm spells it, such as "
                'rand-m9-mstd0.5-inc1, "3a" for 3-Augment, or "" for none'
            )
        if augment.startswith("rand") and jitter:
            raise ValueError(
                f"jitter {jitter} beside augment {augment}: timm ignores the jitter then, and "
                "RandAugment changes the colors itself; set jitter to 0, or augment to 3a"
            )
        self.size, self.area, self.flip = size, (area[0], area[1]), flip
        self.augment, self.interpolation = augment, interpolation
        self.jitter = Jitter(brightness=jitter, contrast=jitter, saturation=jitter)
        self._augment = _augmentation(augment, size, interpolation)

    @property
    def crops(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    @property
    def least(self) -> tuple[int, int]:
        """Of this size, the smallest crop need not be enlarged."""
        side = RandomCrop(self.size, self.area).least
        return side, side

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A random crop of an RGB image."""
        numbers = uniforms(seed)
        height, width, _ = image.shape
        box = random_box(height, width, self.area, numbers)
        crop = resize(box.of(image), self.size, self.size, self._mode(numbers))
        if next(numbers) < self.flip:
            crop = np.ascontiguousarray(crop[:, ::-1])
        if self._augment is not None:
            with seeded(int(next(numbers) * 2**32)):
                crop = np.array(self._augment(Image.fromarray(np.ascontiguousarray(crop))))
        for name, factor in self.jitter.draw(numbers):
            crop = CHANGES[name](np.ascontiguousarray(crop), factor)
        return [stack_of(np.ascontiguousarray(crop)[None])]

    def _mode(self, numbers: Iterator[float]) -> Literal["bicubic", "bilinear"]:
        if self.interpolation == "random":
            return "bilinear" if next(numbers) < 0.5 else "bicubic"
        return self.interpolation


def _augmentation(
    name: str, size: int, interpolation: Interpolation
) -> Callable[[Image.Image], Image.Image] | None:
    """What timm makes of the name, with the settings of its own training script."""
    if not name:
        return None
    settings: dict = {
        "translate_const": int(size * 0.45),  # pixels
        "img_mean": tuple(round(255 * value) for value in MEAN),  # fills what is moved in
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


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the first bits of each value, as timm does, which fails for none of them.

    Magnitude 10, which a deviation reaches, keeps none: a black image with the Pillow of the
    published runs, an error since Pillow 13.
    """
    return timm.posterize(image, bits) if bits else Image.new(image.mode, image.size)
