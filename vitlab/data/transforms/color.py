"""Changes of color and sharpness of 8-bit RGB with OpenCV, as torchvision makes them with PIL."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from jaxtyping import Float64

from vitlab.data.transforms.transform import Pixels

STEPS = 256  # of the blur's sigma for each pixel: so few that their kernels are made only once
FRACTION = 0.499  # taken off what is rounded next: PIL drops fractions
SOLARIZED = np.array([value if value < 128 else 255 - value for value in range(256)], np.uint8)


@dataclass(frozen=True)
class ColorJitter:
    """Random factors of color, in random order. 0 leaves a property as it is.

    Args:
        brightness: the factor lies between 1 - this and 1 + this.
        contrast: the same; 0 would be an even gray.
        saturation: the same; 0 would be a gray image.
        hue: largest shift, as a share of the color circle.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def draw(self, numbers: Iterator[float]) -> list[tuple[str, float]]:
        """Names and factors of the changes, in the order in which to make them."""
        drawn = [
            (next(numbers), name, low + width * next(numbers)) for name, low, width in self._ranges
        ]
        drawn.sort()
        return [(name, factor) for _, name, factor in drawn]

    @cached_property
    def _ranges(self) -> list[tuple[str, float, float]]:
        """Name, least factor and width of the range, of what is not left as it is."""
        middles = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        found = [(name, middle, getattr(self, name)) for name, middle in middles.items()]
        return [(name, middle - by, 2 * by) for name, middle, by in found if by]


def brightness(image: Pixels, factor: float) -> Pixels:
    """Multiply all values."""
    return _blended(image, 0, factor)


def contrast(image: Pixels, factor: float) -> Pixels:
    """Move all values away from the mean of the gray image, or towards it."""
    red, green, blue, _ = cv2.mean(image)
    return _blended(image, int(0.299 * red + 0.587 * green + 0.114 * blue + 0.5), factor)


def saturation(image: Pixels, factor: float) -> Pixels:
    """Move all colors away from gray, or towards it."""
    if factor == 1:
        return image
    if factor == 0:
        return gray(image)
    return cv2.addWeighted(image, factor, gray(image), 1 - factor, -FRACTION)


def hue(image: Pixels, shift: float) -> Pixels:
    """Turn all colors on the color circle by this share of it, in steps of 1/255."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    turn = np.zeros(hsv.shape[1:], np.uint8)
    turn[:, 0] = int(shift * 255) % 256
    hsv += turn  # 8 bits are the circle: 255 is followed by 0
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


CHANGES: dict[str, Callable[[Pixels, float], Pixels]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


def gray(image: Pixels) -> Pixels:
    """The gray image, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(image: Pixels) -> Pixels:
    """Invert the values from 128 on."""
    return cv2.LUT(image, SOLARIZED)


def blur(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur as PIL approximates it; `sigma` in pixels is what PIL calls radius."""
    kernel = blur_kernel(round(sigma * STEPS) / STEPS)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


@lru_cache(1024)
def blur_kernel(sigma: float) -> Float64[np.ndarray, " taps"]:
    """Three boxes in a row, each with soft edges so that its variance is sigma² / 3.

    This is what PIL does (Gwosdek et al. 2011, extended box filter). A sampled Gaussian would blur
    less at small sigma.
    """
    variance = sigma**2 / 3
    reach = int((np.sqrt(12 * variance + 1) - 1) / 2)  # whole pixels on each side
    edge = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance)
    edge /= 6 * (variance - (reach + 1) ** 2)
    box = np.full(2 * reach + 3, 1 / (2 * reach + 1 + 2 * edge))
    box[0] = box[-1] = edge * box[1]
    kernel = np.convolve(np.convolve(box, box), box)
    return (kernel + kernel[::-1]) / 2  # equal to the last bit, which cv2's fast path asks for


def _blended(image: Pixels, target: float, factor: float) -> Pixels:
    """All values moved away from `target`, or towards it."""
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * target - FRACTION)
