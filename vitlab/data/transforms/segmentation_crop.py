"""Random crops of an image and its mask, as segmentation heads are trained."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from vitlab.data.transforms.random_crop import RATIO, TRIES, random_box
from vitlab.data.transforms.segmentation import (
    IGNORE_INDEX,
    ImageAndMask,
    Mask,
    SegmentationTransform,
    as_tensors,
    check_agreement,
    check_aspect_ratio,
    new_size,
    resize_nearest,
)
from vitlab.data.transforms.transform import (
    Pixels,
    Seed,
    check_probabilities,
    check_ranges,
    check_sizes,
    refuse,
    resize,
)

Table = UInt8[np.ndarray, "256"]


@dataclass(eq=False)
class SegmentationCrop(SegmentationTransform):
    """A random square, as linear heads of DINOv2 (arXiv:2304.07193) and others train on it.

    The recipe is mmsegmentation's: scale, crop, flip, distort colors, pad at the bottom and on the
    right. The defaults are DINOv2's for ADE20K; VOC there is size 640, short_side 640, ratio_range
    (1, 3).

    1. The short side becomes `short_side` times a random ratio.
    2. A square is cropped where the image is larger. It is drawn anew, up to ten times, while some
       class has `cat_max_ratio` of its labeled pixels or more; the eleventh is taken as it is.
    3. It is flipped from left to right with probability `flip`.
    4. Colors are distorted; see `distorted`.
    5. The rest is filled: the image with ImageNet's mean color, the mask with 255.

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
            ends at `max_aspect_ratio` times `short_side` times the ratio, and the short side below
            its goal. At least 1; mmsegmentation's own configs have 4, DINOv2's and DINOv3's no
            limit.
    """

    size: int = 512
    short_side: int = 512
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    max_aspect_ratio: float = math.inf

    def __post_init__(self) -> None:
        check_sizes(size=self.size, short_side=self.short_side)
        check_ranges(math.inf, ratio_range=self.ratio_range)
        check_probabilities(flip=self.flip)
        message = "is not a share of pixels; use a number in (0, 1], and 1 to take any crop"
        refuse(not 0 < self.cat_max_ratio <= 1, "cat_max_ratio", self.cat_max_ratio, message)
        check_aspect_ratio(self.max_aspect_ratio)

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """A random square of image and mask, `size` by `size`."""
        check_agreement(image, mask)
        numbers = np.random.default_rng(seed)
        ratio = numbers.uniform(*self.ratio_range)
        rows, columns = new_size(mask.shape, self.short_side * ratio, self.max_aspect_ratio)
        mask = resize_nearest(mask, rows, columns)
        top, left = self._corner(mask, numbers)
        step = -1 if numbers.random() < self.flip else 1
        square = np.s_[top : top + self.size, left : left + self.size]
        pixels, labels = resize(image, rows, columns)[square], mask[square]
        if self.photometric:  # drawn last: the geometry of a seed does not depend on colors
            pixels = distorted(pixels, numbers)
        return as_tensors(pixels[:, ::step], labels[:, ::step], self.size)

    def _corner(self, mask: Mask, numbers: np.random.Generator) -> tuple[int, int]:
        """Top and left of the square; 0 where the mask does not exceed it."""
        room = [max(side - self.size, 0) for side in mask.shape]
        if not any(room):
            return 0, 0
        for _ in range(TRIES):
            top, left = numbers.integers(room, endpoint=True).tolist()
            square = mask[top : top + self.size, left : left + self.size]
            if self.cat_max_ratio == 1 or self._mixed(square):
                return top, left
        top, left = numbers.integers(room, endpoint=True).tolist()
        return top, left

    def _mixed(self, mask: Mask) -> bool:
        """Whether each class has less than its share of labeled pixels; never true of one class."""
        counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX)[:IGNORE_INDEX]
        return bool(counts.max() < self.cat_max_ratio * counts.sum())


@dataclass(eq=False)
class SegmentationRandomResizedCrop(SegmentationTransform):
    """A random part, resized to a square: torchvision's RandomResizedCrop of image and mask.

    Departure: images are bicubic and antialiased, as everywhere in vitlab.

    Args:
        size: edge of the square, in pixels.
        scale: smallest and largest share of the image's area that it covers.
        ratio: smallest and largest width over height of the part.
        flip: probability of a horizontal flip.
    """

    size: int = 448
    scale: tuple[float, float] = (0.8, 1.0)
    ratio: tuple[float, float] = RATIO
    flip: float = 0.5

    def __post_init__(self) -> None:
        check_sizes(size=self.size)
        check_ranges(scale=self.scale)
        check_ranges(math.inf, ratio=self.ratio)
        check_probabilities(flip=self.flip)

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """A random part of image and mask, `size` by `size`."""
        check_agreement(image, mask)
        numbers = np.random.default_rng(seed)

        def place(room: int) -> int:
            return int(numbers.integers(room, endpoint=True))

        (height, width), chances = mask.shape, iter(numbers.random, None)
        box = random_box(height, width, self.scale, chances, self.ratio, place)
        step = -1 if numbers.random() < self.flip else 1
        pixels = resize(image[box], self.size, self.size)
        labels = resize_nearest(mask[box], self.size, self.size)
        return as_tensors(pixels[:, ::step], labels[:, ::step], self.size)


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
    """The value that each of the 256 values becomes."""
    values = np.arange(256, dtype=np.float32) * factor + shift
    return np.clip(values, 0, 255).astype(np.uint8)
