"""Canvas with labels for each pixel; light and camera that turn it into an image."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]  # float32 wherever a picture is large
Number = float | np.floating  # numpy's single precision is no `float`
Contours = list[Floats]  # each (points, 2); overlapping contours cut holes

# each silhouette is drawn at four times the size, then averaged: smooth rims and exact masks
_FINE = 4


def array(values: object) -> Floats:
    """`values` in the precision of the pictures."""
    return np.asarray(values, np.float32)


class Canvas:
    """A picture in progress, with the class and the number of the thing that each pixel shows.

    Attributes:
        pixels: (height, width, 3), RGB in [0, 1].
        height: rows, in pixels.
        width: columns, in pixels.
        short: the shorter side, in pixels.
        labels: (height, width), class of the topmost thing; 0 where nothing was put.
        things: (height, width), number of the topmost thing, from 1 in drawing order.
        count: how many things were put so far.
    """

    def __init__(self, pixels: Floats):
        self.pixels, self.count = pixels, 0
        self.height, self.width = pixels.shape[:2]
        self.short = min(self.height, self.width)
        self.labels = np.zeros(pixels.shape[:2], np.uint8)
        self.things = np.zeros(pixels.shape[:2], np.uint16)

    def blend(self, alpha: Floats, color: Floats) -> None:
        """Lay `color`, (3,) or (height, width, 3), over the picture; the labels stay.

        `alpha` is (height, width), coverage in [0, 1].
        """
        left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
        part = np.s_[top : top + height, left : left + width]  # most strokes are small
        ink = color if color.ndim == 1 else color[part]
        self.pixels[part] += alpha[part][..., None] * (ink - self.pixels[part])

    def put(self, alpha: Floats, color: Floats, label: int) -> None:
        """Lay a new thing over the picture; it owns the pixels that it covers by half or more."""
        self.blend(alpha, color)
        self.count += 1
        inside = alpha >= 0.5
        self.labels[inside] = label
        self.things[inside] = self.count

    def coverage(self, contours: Sequence[Floats]) -> Floats:
        """How much of each pixel lies inside the contours, (height, width) in [0, 1]."""
        corners = np.concatenate(contours)
        size = [self.width, self.height]
        low = np.clip(np.floor(corners.min(0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 1, low, size).astype(int)
        alpha = np.zeros((self.height, self.width), np.float32)
        width, height = (int(edge) for edge in high - low)
        if width and height:
            fine = np.zeros((height * _FINE, width * _FINE), np.uint8)
            points = [np.round(((c - low) * _FINE - 0.5) * 16).astype(np.int32) for c in contours]
            cv2.fillPoly(fine, points, 255, shift=4)
            mean = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
            alpha[low[1] : high[1], low[0] : high[0]] = mean.astype(np.float32) / 255
        return alpha

    def axes(self) -> tuple[Floats, Floats]:
        """Pixel centers: x and y, each (height, width)."""
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32) + np.float32(0.5)
        return x, y


def develop(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light and camera: (height, width, 3) in 0 ... 255, RGB."""
    axis = rng.uniform(0, 2 * np.pi)
    x, y = canvas.axes()
    across = (x / canvas.width - 0.5) * np.cos(axis) + (y / canvas.height - 0.5) * np.sin(axis)
    light = rng.uniform(0.9, 1.1) + rng.uniform(0, 0.3) * across
    pixels = (canvas.pixels - 0.5) * rng.uniform(0.85, 1.1) + 0.5
    pixels = np.clip(pixels * light[..., None], 0, 1) ** rng.uniform(0.9, 1.1)
    pixels = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), rng.uniform(0.3, 0.5))
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0.005, 0.02))
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
