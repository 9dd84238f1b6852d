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

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PHOTOGRAPHS = 24  # of a figure
DISTORTION = 0.01  # change of the aspect that is reported
Place = tuple[int, int]  # x and y in a photograph's own pixels


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
        change = (columns / rows) / (width / height) - 1
        distorted = f", aspect {change:+.1%}" if abs(change) > DISTORTION else ""
        return (
            f"{self.name}: {width} x {height} -> {columns * patch} x {rows * patch} pixels, "
            f"{columns} x {rows} patches of {patch}{distorted}"
        )

    def patch_at(self, place: Place, grid: Grid) -> int:
        """Return the index of the patch that the center of a pixel lies in.

        Args:
            place: from the left and from the top, from 0.
            grid: rows and columns of patches.

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

    def share(self, place: Place) -> tuple[float, float]:
        """Return the center of a pixel as shares of width and height."""
        return (place[0] + 0.5) / self.size[1], (place[1] + 0.5) / self.size[0]


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures directly in a folder, by name."""
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in ENDINGS)


def read_photographs(paths: Sequence[Path]) -> list[Photograph]:
    """Read image files; of a folder, all pictures in it, by name.

    Raises:
        OSError: a file that is missing, damaged or no picture, by name.
        InputError: no pictures, more than `MAX_PHOTOGRAPHS`, or pixels that are no colors.
    """
    files = [file for path in paths for file in (picture_files(path) if path.is_dir() else [path])]
    if not 0 < len(files) <= MAX_PHOTOGRAPHS:
        raise InputError(
            f"{' '.join(map(str, paths[:2]))}: {len(files)} pictures ({', '.join(ENDINGS)}); a "
            f"figure has 1 to {MAX_PHOTOGRAPHS}; name others",
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
