"""Sizes and files of the pictures that all sets share."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]


def random_size(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Height and width in pixels, portrait or landscape."""
    height, width = rng.integers(low, high + 1, 2)
    return int(height), int(width)


def save_jpeg(path: Path, pixels: Picture, rng: np.random.Generator) -> None:
    """Write a picture in RGB, at a random quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    path.write_bytes(cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes())


def save_png(path: Path, values: NDArray[np.generic], palette: Picture | None = None) -> None:
    """Write exact values; with a `palette`, (256, 3), as an image of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette.tobytes())  # and mode L becomes P
    image.save(path)
