"""The task of drawing an image, and its files."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class DrawingTask:
    """One image to draw, with all that a process needs for it.

    Attributes:
        draw: the function that draws and writes it.
        name: of the data set, part of the seed.
        root: folder of the data set.
        seed: of the whole collection.
        split: "train" or "val".
        index: number in the split, from 0; the classes of ImageNet alternate.
    """

    draw: Callable[["DrawingTask", np.random.Generator], None]
    name: str
    root: Path
    seed: int
    split: str
    index: int

    def run(self) -> None:
        """Draw and write; the bytes depend on this task alone."""
        stream = zlib.crc32(f"_draw_{self.name} {self.split}".encode())
        self.draw(self, np.random.default_rng([self.seed, stream, self.index]))


def random_size(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Height and width in pixels, portrait or landscape."""
    height, width = rng.integers(low, high + 1, 2)
    return int(height), int(width)


def save_jpeg(path: Path, pixels: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Write RGB pixels at a random quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    path.write_bytes(cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes())


def save_png(
    path: Path, values: NDArray[np.generic], palette: NDArray[np.uint8] | None = None
) -> None:
    """Write exact values; with a `palette`, (256, 3), as an image of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette.tobytes())  # and mode L becomes P
    image.save(path)
