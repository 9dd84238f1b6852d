"""Photographs of any size and shape, resized to whole patches; places in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitlab.data import DataError, read_image
from vitlab.data.transforms import resize
from vitlab.encoders.tokens import Grid
from vitlab.errors import InputError
from vitlab.visualization.grid import Point

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PHOTOGRAPHS = 24  # of a figure
DISTORTION = 0.01  # change of the aspect that is reported


@dataclass(frozen=True)
class Photograph:
    """A picture as it was taken, upright.

    Attributes:
        name: of its file.
        pixels: RGB. Gray is repeated, 16 bits are cut to 8, transparency is left out.
    """

    name: str
    pixels: UInt8[Tensor, "3 height width"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def grid(self, size: int, patch: int) -> Grid:
        """Return rows and columns of patches at a size.

        Args:
            size: pixels of the long edge; 0 leaves the photograph at its own. Both edges then
                become the nearest multiples of the patch, at least one, and nothing is cut off.
            patch: pixels of a patch edge.
        """
        factor = size / max(self.size) if size else 1
        rows, columns = (max(1, int(edge * factor / patch + 0.5)) for edge in self.size)
        return rows, columns

    def fitted(self, size: int, patch: int) -> UInt8[Tensor, "1 3 _ _"]:
        """Return the photograph with edges that patches tile, by bicubic interpolation."""
        rows, columns = (cells * patch for cells in self.grid(size, patch))
        if (rows, columns) == self.size:
            return self.pixels[None]
        image = resize(self.pixels.permute(1, 2, 0).numpy(), rows, columns)
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]

    def summary(self, size: int, patch: int) -> str:
        """Return sizes before and after, and the change of the aspect."""
        (height, width), (rows, columns) = self.size, self.grid(size, patch)
        aspect = (columns / rows) / (width / height)
        text = (
            f"{self.name}: {width} x {height} -> {columns * patch} x {rows * patch} pixels, "
            f"{columns} x {rows} patches of {patch}"
        )
        if abs(aspect - 1) > DISTORTION:
            text += f", {'wider' if aspect > 1 else 'narrower'} by {abs(aspect - 1):.1%}"
        return text

    def patch_at(self, place: tuple[int, int], grid: Grid) -> int:
        """Return the index of the patch that the center of a pixel lies in.

        The place is x from the left and y from the top, from 0, in the photograph's own pixels.

        Raises:
            InputError: a place outside the photograph.
        """
        (x, y), (height, width) = place, self.size
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"--at {x},{y} is outside {self.name}, whose pixels go from 0,0 to "
                f"{width - 1},{height - 1} (x from the left, y from the top)",
                field="--at",
            )
        row, column = (2 * y + 1) * grid[0] // (2 * height), (2 * x + 1) * grid[1] // (2 * width)
        return row * grid[1] + column

    def share(self, place: tuple[int, int]) -> Point:
        """Return the center of a pixel as shares of width and height."""
        height, width = self.size
        return (place[0] + 0.5) / width, (place[1] + 0.5) / height


def read_photographs(paths: Sequence[Path]) -> list[Photograph]:
    """Read image files; of a folder, all pictures in it, by name.

    Raises:
        OSError: a file that is missing, damaged or no picture, by name.
        InputError: a folder without pictures, more than `MAX_PHOTOGRAPHS`, or pixels that
            are no colors.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in ENDINGS)
            if not inside:
                raise InputError(
                    f"{path} holds no pictures ({', '.join(ENDINGS)}); name others", field="images"
                )
            files += inside
        else:
            files.append(path)
    if len(files) > MAX_PHOTOGRAPHS:
        raise InputError(
            f"{len(files)} pictures are more than fit on a figure, {MAX_PHOTOGRAPHS} at most; "
            f"name fewer, such as {' '.join(str(each) for each in files[:2])}",
            field="images",
        )
    return [Photograph(path.name, _pixels(path)) for path in files]


def _pixels(path: Path) -> UInt8[Tensor, "3 height width"]:
    pixels = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)
    with Image.open(path) as image:
        if image.mode == "F":
            raise DataError(
                f"{path} holds floating-point values, whose range is not known; save it with 8 or "
                "16 bits"
            )
    return pixels.contiguous()
