"""Views of an image and its mask, for training and testing segmentation.

A pixel i of a new side lies at (i + 0.5) * old / new - 0.5 of the old one, in the image (bicubic,
antialiased) as in the mask (nearest), so the two agree to the pixel. Everything random is a
function of the image, the mask and a seed.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from vitlab.data.transforms.functional import MEAN, resize
from vitlab.data.transforms.transform import Pixels, Seed, check_size

Mask = UInt8[np.ndarray, "_ _"]  # no names: the image beside it may have another size
Table = UInt8[np.ndarray, "256"]

IGNORE_INDEX = 255  # the mask's value for pixels that have no label
FILL = tuple(round(255 * mean) for mean in MEAN)  # padding, within 0.01 of 0 after `normalize`
TRIES = 10
# 0.8 GB of RGB: a strip of one pixel's height would otherwise take all memory without a word
MOST_PIXELS = 2**28


class ImageAndMask(NamedTuple):
    """An image and its mask after the same view.

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

        Raises:
            ValueError: if image and mask differ in size, or the new size would fill the memory.
        """


class SegmentationCrop(SegmentationTransform):
    """A random square, as linear heads of DINOv2 (arXiv:2304.07193) and others train on it.

    The recipe is mmsegmentation's: scale, crop, flip, distort colors, pad at the bottom and on the
    right. The defaults are DINOv2's for ADE20K; VOC there is size 640, short 640, ratio (1, 3).

    1. The short side becomes `short_side` times a random ratio.
    2. A square is cropped where the image is larger. It is drawn anew, up to ten times, while some
       class has `cat_max_ratio` of its labeled pixels or more; the eleventh is taken as it is.
    3. It is flipped from left to right with probability `flip`.
    4. Colors are distorted; see `distorted`.
    5. What is missing is filled: the image with ImageNet's mean color, the mask with 255.

    Departures: images are bicubic and antialiased, where mmsegmentation's are bilinear and
    alias; masks keep pixel centers in place, where OpenCV's nearest neighbor moves them by up to
    half a pixel. DINOv3's code resizes as PIL does and has other colors: hue by any angle, and
    saturation as torchvision defines it.

    Args:
        size: edge of the square, in pixels.
        short_side: short side of the image at ratio 1, in pixels.
        ratio_range: smallest and largest factor of `short_side`.
        cat_max_ratio: share of the labeled pixels that a class has to stay below, in (0, 1];
            with 1 the first crop is taken.
        flip: probability, 0 to 1.
        photometric: whether to distort colors.
        max_aspect_ratio: longest shape of an image, as long side over short side: the long side
            ends at
            `max_aspect_ratio` times `short_side` times the ratio, and the short side below its
            goal. At least 1;
            mmsegmentation's own configs have 4, DINOv2's and DINOv3's no limit.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        size: int = 512,
        short_side: int = 512,
        ratio_range: tuple[float, float] = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        max_aspect_ratio: float = math.inf,
    ):
        check_size("size", size)
        check_size("short_side", short_side)
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1] < math.inf:
            raise ValueError(
                f"ratio_range {tuple(ratio_range)} is not a range of factors; use two positive "
                "numbers, the "
                "smaller first"
            )
        if not 0 < cat_max_ratio <= 1:
            raise ValueError(
                f"cat_max_ratio {cat_max_ratio} is not a share of pixels; use a number in (0, 1], "
                "and 1 to take "
                "any crop"
            )
        if not 0 <= flip <= 1:
            raise ValueError(f"flip {flip} is not a probability; use a number from 0 to 1")
        _check_aspect(max_aspect_ratio)
        self.size, self.short_side, self.ratio_range = (
            size,
            short_side,
            (ratio_range[0], ratio_range[1]),
        )
        self.cat_max_ratio, self.flip, self.photometric, self.max_aspect_ratio = (
            cat_max_ratio,
            flip,
            photometric,
            max_aspect_ratio,
        )

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """A random square of image and mask, `size` by `size`."""
        _check_agreement(image, mask)
        numbers = np.random.default_rng(seed)
        ratio = numbers.uniform(*self.ratio_range)
        rows, columns = _fit(mask.shape, self.short_side * ratio, self.max_aspect_ratio)
        mask = resize_nearest(mask, rows, columns)
        top, left = self._corner(mask, numbers)
        step = -1 if numbers.random() < self.flip else 1
        square = np.s_[top : top + self.size, left : left + self.size]
        pixels, labels = resize(image, rows, columns)[square], mask[square]
        if self.photometric:  # drawn last: the geometry of a seed does not depend on colors
            pixels = distorted(pixels, numbers)
        return _labeled(pixels[:, ::step], labels[:, ::step], self.size)

    def _corner(self, mask: Mask, numbers: np.random.Generator) -> tuple[int, int]:
        """Top and left of the square; 0 where the mask does not exceed it."""
        room = [max(side - self.size, 0) for side in mask.shape]
        if not any(room):
            return 0, 0
        for _ in range(TRIES):
            top, left = numbers.integers(room, endpoint=True).tolist()
            square = mask[top : top + self.size, left : left + self.size]
            if self.cat_max_ratio == 1 or _mixed(square, self.cat_max_ratio):
                return top, left
        top, left = numbers.integers(room, endpoint=True).tolist()
        return top, left


class SegmentationWhole(SegmentationTransform):
    """The whole image at another size and its mask at its own, as sliding windows are scored.

    Predictions are enlarged to the mask, so the score is one of the pixels as they were labeled.
    See `vitlab.data.transforms.sliding_window`.

    Args:
        short_side: short side of the image, in pixels; 0 leaves its size.
        max_aspect_ratio: see `SegmentationCrop`; with 4, mmsegmentation's own configs are met.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, short_side: int = 512, max_aspect_ratio: float = math.inf):
        if short_side < 0:
            raise ValueError(
                f"short_side {short_side} is not a length; use a positive number of pixels, or 0 "
                "to leave "
                "the image at its size"
            )
        _check_aspect(max_aspect_ratio)
        self.short_side, self.max_aspect_ratio = short_side, max_aspect_ratio

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The image with its new short side, and the mask as it is; nothing is random."""
        _check_agreement(image, mask)
        if self.short_side:
            image = resize(image, *_fit(mask.shape, self.short_side, self.max_aspect_ratio))
        return _labeled(image, mask)


class SegmentationSquare(SegmentationTransform):
    """The whole image squeezed into a square, and its mask at its own size: every label is seen.

    Args:
        size: edge of the square, in pixels.

    Raises:
        ValueError: if `size` is no length.
    """

    def __init__(self, size: int = 224):
        check_size("size", size)
        self.size = size

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The image at its new size, and the mask as it is; nothing is random."""
        _check_agreement(image, mask)
        return _labeled(resize(image, self.size, self.size), mask)


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


def distorted(image: Pixels, numbers: np.random.Generator) -> Pixels:
    """Random colors, as in mmsegmentation's PhotoMetricDistortion; each step with probability 0.5.

    Brightness: a shift of -32 to 32 levels. Contrast: a factor of 0.5 to 1.5 around black, at
    random before or after the next two. Saturation: a factor of 0.5 to 1.5. Hue: a shift of -18 to
    17 of OpenCV's 180 steps, which are 2 degrees each. Values are cut to 0 to 255 and rounded down.
    Departure: one conversion to HSV and back, which rounds, where the original makes two.
    """
    shift = numbers.uniform(-32, 32) if numbers.random() < 0.5 else 0.0
    contrast = _line(numbers.uniform(0.5, 1.5) if numbers.random() < 0.5 else 1.0)
    contrast_first = numbers.random() < 0.5
    saturation = numbers.uniform(0.5, 1.5) if numbers.random() < 0.5 else 1.0
    hue = int(numbers.integers(-18, 18)) if numbers.random() < 0.5 else 0
    brightness = _line(1.0, shift)
    image = cv2.LUT(image, contrast[brightness] if contrast_first else brightness)
    if saturation != 1 or hue != 0:
        steps = ((np.arange(256) + hue) % 180).astype(np.uint8)
        tables = np.stack([steps, _line(saturation), _line(1.0)], axis=-1)
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables[None])
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else cv2.LUT(image, contrast)


def _line(factor: float, shift: float = 0.0) -> Table:
    """What each of the 256 values becomes."""
    values = np.arange(256, dtype=np.float32) * factor + shift
    return np.clip(values, 0, 255).astype(np.uint8)


def _mixed(mask: Mask, cat_max_ratio: float) -> bool:
    """Whether each class has less than its share of labeled pixels; never true of one class."""
    counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX)[:IGNORE_INDEX]
    return bool(counts.max() < cat_max_ratio * counts.sum())


def _fit(shape: tuple[int, ...], short_side: float, max_aspect_ratio: float) -> tuple[int, int]:
    """Height and width of the given short side, or a long side of `max_aspect_ratio` times it."""
    factor = min(max(int(short_side), 1) / min(shape), max_aspect_ratio * short_side / max(shape))
    rows, columns = (max(int(side * factor + 0.5), 1) for side in shape)
    if rows * columns > MOST_PIXELS:
        raise ValueError(
            f"an image of {shape[0]} x {shape[1]} pixels would become {rows} x {columns}, more "
            f"than {MOST_PIXELS} pixels; limit the aspect, to 4 for instance, or remove the image"
        )
    return rows, columns


def _labeled(image: Pixels, mask: Mask, size: int = 0) -> ImageAndMask:
    """Copies as tensors, filled up to `size` at the bottom and on the right."""
    height, width = image.shape[:2]
    pixels = np.empty((max(size, height), max(size, width), 3), np.uint8)
    pixels[:] = FILL
    pixels[:height, :width] = image
    labels = np.full((max(size, mask.shape[0]), max(size, mask.shape[1])), IGNORE_INDEX, np.uint8)
    labels[: mask.shape[0], : mask.shape[1]] = mask
    return ImageAndMask(torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels))


def _check_agreement(image: Pixels, mask: Mask) -> None:
    if image.shape[:2] != mask.shape:
        given = " and ".join(f"{a.shape[0]} x {a.shape[1]}" for a in (image, mask))
        raise ValueError(
            f"image and mask have {given} pixels; give a mask of the image's height and width"
        )


def _check_aspect(max_aspect_ratio: float) -> None:
    if not max_aspect_ratio >= 1:
        raise ValueError(
            f"max_aspect_ratio {max_aspect_ratio} is no long side over a short one; use a number "
            "from 1 on, or inf "
            "for no limit"
        )
