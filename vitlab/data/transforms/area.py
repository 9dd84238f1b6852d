"""A random part of an image and its mask, as classifiers are trained."""

import math

import numpy as np

from vitlab.data.transforms.functional import resize
from vitlab.data.transforms.segmentation import (
    ImageAndMask,
    Mask,
    SegmentationTransform,
    _check_agreement,
    _labeled,
    resize_nearest,
)
from vitlab.data.transforms.transform import Pixels, Seed, check_scale, check_share, check_size

TRIES = 10


class SegmentationRandomResizedCrop(SegmentationTransform):
    """A random part, brought to a square: torchvision's RandomResizedCrop of image and mask.

    Departure: images are bicubic and antialiased, as everywhere in vitlab.

    Args:
        size: edge of the square, in pixels.
        scale: smallest and largest share of the image's area that it covers.
        ratio: smallest and largest width over height of the part.
        flip: probability that left and right are swapped.
    """

    def __init__(
        self,
        size: int = 448,
        scale: tuple[float, float] = (0.8, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ):
        check_size("size", size)
        check_scale("scale", scale)
        check_share("flip", flip)
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(
                f"ratio {tuple(ratio)} is not a range of shapes; use two positive numbers, the "
                "smaller first"
            )
        self.size, self.scale, self.ratio, self.flip = size, tuple(scale), tuple(ratio), flip

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """A random part of image and mask, `size` by `size`."""
        _check_agreement(image, mask)
        numbers = np.random.default_rng(seed)
        part = self._part(mask.shape, numbers)
        step = -1 if numbers.random() < self.flip else 1
        pixels = resize(image[part], self.size, self.size)
        labels = resize_nearest(mask[part], self.size, self.size)
        return _labeled(pixels[:, ::step], labels[:, ::step], self.size)

    def _part(self, shape: tuple[int, ...], numbers: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns; in the middle if ten draws do not fit into the image."""
        height, width = shape
        for _ in range(TRIES):
            area = height * width * numbers.uniform(self.scale[0], self.scale[1])
            ratio = math.exp(numbers.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(numbers.integers(height - rows, endpoint=True))
                left = int(numbers.integers(width - columns, endpoint=True))
                return slice(top, top + rows), slice(left, left + columns)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        rows, columns = min(height, round(width / ratio)), min(width, round(height * ratio))
        top, left = (height - rows) // 2, (width - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)
