"""Transforms of an image and its mask; the whole image, as segmentation is scored.

A pixel i of a new side lies at (i + 0.5) * old / new - 0.5 of the old one, in the image (bicubic,
antialiased) as in the mask (nearest), so the two agree to the pixel. Everything random is a
function of the image, the mask and a seed.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from vitlab.data.transforms.transform import MEAN, Pixels, Seed, check_sizes, refuse, resize
from vitlab.errors import InputError

Mask = UInt8[np.ndarray, "_ _"]  # no names: the image beside it may have another size

IGNORE_INDEX = 255  # the mask's value for pixels that have no label
FILL = tuple(round(255 * mean) for mean in MEAN)  # padding, within 0.01 of 0 after `normalize`
# 0.8 GB of RGB: a strip of one pixel's height would otherwise take all memory
MOST_PIXELS = 2**28


class ImageAndMask(NamedTuple):
    """An image and its mask after the same transform.

    Attributes:
        image: RGB, channels first, in 8 bits.
        mask: class index of each pixel, 255 where there is no label.
    """

    image: UInt8[Tensor, "3 _ _"]
    mask: UInt8[Tensor, "_ _"]


class SegmentationTransform(ABC):
    """Turns an image and its mask into one view of both."""

    @abstractmethod
    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """One view, in new memory, still in 8 bits: `normalize` is for the device that uses it.

        Args:
            image: RGB.
            mask: class index of each pixel, 255 where there is no label.
            seed: non-negative; the same image, mask and seed give the same view to the bit.
        """


@dataclass(eq=False)
class SegmentationWhole(SegmentationTransform):
    """The whole image at another size and its mask at its own, as sliding windows are scored.

    Predictions are enlarged to the mask, so the score is one of the pixels as they were labeled.
    See `vitlab.data.transforms.sliding_window`.

    Args:
        short_side: short side of the image, in pixels; 0 leaves its size.
        max_aspect_ratio: see `SegmentationCrop`; with 4, mmsegmentation's own configs are met.
    """

    short_side: int = 512
    max_aspect_ratio: float = math.inf

    def __post_init__(self) -> None:
        message = "is not a length; use a positive number of pixels, or 0 to leave the image at its"
        refuse(self.short_side < 0, "short_side", self.short_side, f"{message} size")
        check_aspect_ratio(self.max_aspect_ratio)

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The image with its new short side, and the mask as it is; nothing is random."""
        check_agreement(image, mask)
        if self.short_side:
            image = resize(image, *new_size(mask.shape, self.short_side, self.max_aspect_ratio))
        return as_tensors(image, mask)


@dataclass(eq=False)
class SegmentationSquare(SegmentationTransform):
    """The whole image resized to a square, and its mask at its own size: every label is seen.

    Args:
        size: edge of the square, in pixels.
    """

    size: int = 224

    def __post_init__(self) -> None:
        check_sizes(size=self.size)

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The image at its new size, and the mask as it is; nothing is random."""
        check_agreement(image, mask)
        return as_tensors(resize(image, self.size, self.size), mask)


def resize_nearest(
    mask: Shaped[np.ndarray, "_ _"], rows: int, columns: int
) -> Shaped[np.ndarray, "rows columns"]:
    """A mask at another size: each new pixel takes the old one that its center lies in.

    In whole numbers, since versions of OpenCV differ where a center lies on a border.
    """
    down, across = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip((rows, columns), mask.shape, strict=True)
    )
    return mask[down][:, across]


def new_size(shape: tuple[int, ...], short_side: float, max_aspect_ratio: float) -> tuple[int, int]:
    """Height and width of the given short side, or a long side of `max_aspect_ratio` times it."""
    factor = min(max(int(short_side), 1) / min(shape), max_aspect_ratio * short_side / max(shape))
    rows, columns = (max(int(side * factor + 0.5), 1) for side in shape)
    if rows * columns > MOST_PIXELS:
        raise InputError(
            f"an image of {shape[0]} x {shape[1]} pixels would become {rows} x {columns}, more "
            f"than {MOST_PIXELS} pixels; limit max_aspect_ratio, to 4 for instance, or remove the "
            "image",
            field="max_aspect_ratio",
        )
    return rows, columns


def as_tensors(image: Pixels, mask: Mask, size: int = 0) -> ImageAndMask:
    """Copies as tensors, filled up to `size` at the bottom and on the right."""
    height, width = image.shape[:2]
    pixels = np.empty((max(size, height), max(size, width), 3), np.uint8)
    pixels[:] = FILL
    pixels[:height, :width] = image
    labels = np.full((max(size, mask.shape[0]), max(size, mask.shape[1])), IGNORE_INDEX, np.uint8)
    labels[: mask.shape[0], : mask.shape[1]] = mask
    return ImageAndMask(torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels))


def check_agreement(image: Pixels, mask: Mask) -> None:
    """Refuse a mask of another height or width than its image."""
    if image.shape[:2] != mask.shape:
        given = " and ".join(f"{a.shape[0]} x {a.shape[1]}" for a in (image, mask))
        raise InputError(
            f"image and mask have {given} pixels; give a mask of the image's height and width",
            field="mask",
        )


def check_aspect_ratio(max_aspect_ratio: float) -> None:
    """Refuse a largest ratio of long to short side below 1."""
    message = "is no long side over a short one; use a number from 1 on, or inf for no limit"
    refuse(not max_aspect_ratio >= 1, "max_aspect_ratio", max_aspect_ratio, message)
