"""Squares of images and masks: whole ones, and the random crops of Hummingbird's memory."""

import numpy as np
import torch
import torch.nn.functional as F

from vitlab.data.transforms import (
    CHANGES,
    ImageAndMask,
    Mask,
    Pixels,
    Seed,
    SegmentationTransform,
    check_agreement,
    random_box,
    resize,
    resize_nearest,
    uniforms,
)
from vitlab.errors import InputError


class SquareResize(SegmentationTransform):
    """The whole image and its mask, both squeezed into a square; nothing is random.

    Args:
        size: edge of the square, in pixels.
        bicubic: whether the image is resized bicubically; False is bilinear. Both antialias.
    """

    def __init__(self, size: int, bicubic: bool = True):
        self.size, self.bicubic = size, bicubic

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The image and the mask at their new size."""
        check_agreement(image, mask)
        return self.squeezed(image, mask)

    def squeezed(self, image: Pixels, mask: Mask) -> ImageAndMask:
        """Return image and mask, which may be parts, as a square."""
        labels = np.ascontiguousarray(resize_nearest(mask, self.size, self.size))
        if self.bicubic:
            large = np.ascontiguousarray(resize(image, self.size, self.size))
            pixels = torch.from_numpy(large).permute(2, 0, 1)
        else:
            whole = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
            size = (self.size, self.size)
            pixels = F.interpolate(whole, size, mode="bilinear", antialias=True)[0]
        return ImageAndMask(pixels, torch.from_numpy(labels))


class HummingbirdCrop(SquareResize):
    """A random part, 3/4 to 4/3 as wide as high, resized to a square; colors are changed before.

    Brightness, contrast, saturation and hue change in this order, each with some probability.

    Args:
        size: edge of the square, in pixels.
        scale: smallest and largest share of the image's area; parts that do not fit are drawn
            again, ten times, as torchvision does.
        jitter: strength of each change, from 0 to 0.5.
        chance: probability of each change.
        bicubic: see `SquareResize`.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float],
        jitter: float = 0.1,
        chance: float = 0.5,
        bicubic: bool = True,
    ):
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise InputError(
                f"scale {tuple(scale)} is not a range of area shares; use two positive numbers, "
                "the smaller first",
                field="scale",
            )
        super().__init__(size, bicubic)
        self.scale, self.jitter, self.chance = (scale[0], scale[1]), jitter, chance

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """A random square of image and mask."""
        numbers = uniforms(seed)
        for name in ("brightness", "contrast", "saturation", "hue"):
            applies, change = next(numbers) < self.chance, self.jitter * (2 * next(numbers) - 1)
            if applies:
                image = CHANGES[name](image, change if name == "hue" else 1 + change)
        box = random_box(mask.shape[0], mask.shape[1], self.scale, numbers)
        return self.squeezed(image[box], mask[box])
