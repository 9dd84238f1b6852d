"""`RandomCrop`: DINO's crop, flip, color jitter, gray, blur and solarization of one image."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from vitlab.data.transforms import color
from vitlab.data.transforms.transform import Pixels, Seed, resize

RATIO = (3 / 4, 4 / 3)  # of width to height
TRIES = 10
Box = tuple[slice, slice]  # rows and columns of an image


def uniforms(seed: Seed) -> Iterator[float]:
    """Endless numbers in [0, 1): the only source of randomness of a transform."""
    generator = np.random.default_rng(seed)
    # 256 at a time, since numpy takes long for a single one
    return chain.from_iterable(generator.random(256).tolist() for _ in repeat(None))


class CropParameters(NamedTuple):
    """Random parameters of one crop; the operations are in this order."""

    box: Box
    flip: bool
    changes: list[tuple[str, float]]  # names and factors of the changes of color
    gray: bool
    sigma: float | None  # of the blur in pixels
    solarize: bool


@dataclass(frozen=True)
class RandomCrop:
    """The distribution of a crop. All but size and scale are neutral by default.

    Args:
        size: its edge, in pixels.
        scale: smallest and largest share of the image's area that it covers.
        flip: probability that left and right are swapped.
        jitter: strength of the changes of color.
        jittered: probability of these changes.
        gray: probability that the colors are dropped.
        blur: probability of a blur.
        sigmas: range of the blur's standard deviation, in pixels.
        solarize: probability that values from 128 on are inverted.
    """

    size: int
    scale: tuple[float, float]
    flip: float = 0.0
    jitter: color.ColorJitter = field(default_factory=color.ColorJitter)
    jittered: float = 1.0
    gray: float = 0.0
    blur: float = 0.0
    sigmas: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    @property
    def min_size(self) -> tuple[int, int]:
        """Height and width of an image whose smallest crop still has `size` pixels each way."""
        side = math.ceil(self.size / math.sqrt(self.scale[0] * RATIO[0]))
        return side, side

    def draw(self, height: int, width: int, numbers: Iterator[float]) -> CropParameters:
        """Random parameters for an image of this size."""
        return CropParameters(
            box=random_box(height, width, self.scale, numbers),
            flip=next(numbers) < self.flip,
            changes=self.jitter.draw(numbers) if next(numbers) < self.jittered else [],
            gray=next(numbers) < self.gray,
            sigma=_between(*self.sigmas, next(numbers)) if next(numbers) < self.blur else None,
            solarize=next(numbers) < self.solarize,
        )

    def make(
        self, image: Pixels, drawn: CropParameters, out: UInt8[np.ndarray, "size size 3"]
    ) -> None:
        """Write the crop to `out`."""
        crop = resize(image[drawn.box], self.size, self.size)
        for name, factor in drawn.changes:
            crop = color.CHANGES[name](crop, factor)
        if drawn.gray:
            crop = color.gray(crop)
        if drawn.sigma is not None:
            crop = color.blur(crop, drawn.sigma)
        if drawn.solarize:
            crop = color.solarize(crop)
        if drawn.flip:
            cv2.flip(crop, 1, dst=out)  # nothing above minds left and right, and here it is a copy
        else:
            out[...] = crop


def make_all(
    crops: list[RandomCrop], image: Pixels, numbers: Iterator[float]
) -> UInt8[np.ndarray, "crops size size 3"]:
    """Crops of one size, drawn one after the other."""
    height, width, _ = image.shape
    size = crops[0].size
    stack = np.empty((len(crops), size, size, 3), np.uint8)
    for crop, out in zip(crops, stack, strict=True):
        crop.make(image, crop.draw(height, width, numbers), out)
    return stack


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    numbers: Iterator[float],
    ratio: tuple[float, float] = RATIO,
    place: Callable[[int], int] | None = None,
) -> Box:
    """Part of an image of this size in pixels, drawn as torchvision's RandomResizedCrop does.

    Its share of the area is uniform and the logarithm of its aspect ratio too, given that it fits.
    If none of ten fits, it is the middle of the image, as large as the ratios allow. `place` draws
    the offset from the room that is left, with `numbers` in [0, 1) by default.
    """
    place = place or (lambda room: int(next(numbers) * (room + 1)))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        area = height * width * _between(*scale, next(numbers))
        shape = math.exp(_between(low, high, next(numbers)))
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = place(height - rows), place(width - columns)
            return slice(top, top + rows), slice(left, left + columns)
    columns = min(width, round(height * ratio[1]))
    rows = min(height, round(width / ratio[0]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
