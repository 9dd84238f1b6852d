"""Grid of images: columns with titles, rows with labels, notes, legends and a caption; as a file.

Lengths are pixels, 100 to the inch; a grid of scale 2 has twice as many of them. Only the images
are laid out: text stands around them, and the file is cut to what is drawn.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from vitlab.atomic_io import write_bytes
from vitlab.visualization.colors import ABOVE_ZERO, ATTENTION, Key
from vitlab.visualization.plots import FONT, METADATA, figure_files

HEIGHT, DPI = 200, 100
GAP, LINE, LARGE, SMALL = 6, 19, 14, 12  # between images; of a line; heights of text
SWATCH, BAR = 14, 80  # of a color, and of a color map
CHARACTER = 0.62  # width over height, of most


@dataclass(frozen=True)
class GridColumn:
    """Images of one kind, one for each row.

    Attributes:
        title: above them.
        images: in [0, 1], of any sizes; the first column's decides the size of a row.
        legend: colors and their meaning, below the last image.
        smooth: whether they are photographs; cells of maps stay sharp.
        notes: a line below each image.
        marks: a place on each image, as shares of width and height; None for none.
    """

    title: str
    images: Sequence[Float[Tensor, "3 _ _"]]
    legend: Sequence[Key] = ()
    smooth: bool = False
    notes: Sequence[str] = ()
    marks: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class ImageGrid:
    """Columns of images with everything around them.

    Attributes:
        columns: from left to right.
        labels: of the rows.
        keys: colors with their meaning, below all columns.
        caption: below all.
        height: of the rows; images wider than twice that are lower.
    """

    columns: Sequence[GridColumn]
    labels: Sequence[str] = ()
    keys: Sequence[Key] = ()
    caption: str = ""
    height: int = HEIGHT

    def draw(self) -> Figure:
        """Draw the images in one pair of axes, in pixels, and all else around them."""
        columns, rows = self.columns, len(self.columns[0].images)
        assert all(len(column.images) == rows for column in columns), "a row misses an image"
        sizes = [displayed_size(image, self.height) for image in columns[0].images]
        step = max(3 * self.height // 4, *(wide for _, wide in sizes)) + GAP
        note = GAP + LINE * any(column.notes for column in columns)
        *tops, bottom = accumulate((tall + note for tall, _ in sizes), initial=0)
        width = step * len(columns) - GAP
        figure = Figure((width / DPI, bottom / DPI))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(bottom, 0))
        axes.axis("off")

        for left, column in zip(range(0, width, step), columns, strict=True):
            middle = left + (step - GAP) / 2
            _text(axes, middle, -GAP, column.title, step, ha="center", va="bottom")
            for row, (top, (tall, wide)) in enumerate(zip(tops, sizes, strict=True)):
                x = middle - wide / 2
                _image(axes, x, top, column.images[row], (tall, wide), column.smooth)
                if column.marks and (mark := column.marks[row]):
                    place = x + mark[0] * wide, top + mark[1] * tall
                    for color, thick in (("black", 3.2), ("white", 1.6)):
                        axes.plot(*place, "o", ms=8, mfc="none", mec=color, mew=thick)
                if column.notes:
                    style = {"ha": "center", "color": "0.3"}
                    _text(axes, middle, top + tall + 2, column.notes[row], step, SMALL, **style)
            for line, key in enumerate(column.legend):
                _key(axes, left, bottom + LINE * line, key)
        for top, (tall, _), label in zip(tops, sizes, self.labels, strict=False):
            place = -GAP, top + tall / 2
            _text(axes, *place, label, tall, ha="right", va="center", rotation=90)
        bottom += LINE * max(len(column.legend) for column in columns)
        x = 0.0
        for key in self.keys:
            bar = BAR if isinstance(key.color, str) else SWATCH
            length = bar + CHARACTER * SMALL * len(key.low + key.text) + 4 * GAP
            if x and x + length > width:
                x, bottom = 0.0, bottom + LINE
            _key(axes, x, bottom, key)
            x += length
        bottom += LINE * bool(self.keys) + 3
        _text(axes, 0, bottom, self.caption, width, SMALL, color="0.3")
        return figure

    def encode(self, ending: str = ".png", scale: int = 2) -> bytes:
        """Return a file's content, the same each time; text of .svg and .pdf is vectors."""
        file = io.BytesIO()
        more: dict[str, Any] = {"bbox_inches": "tight", "metadata": METADATA[ending]}
        with matplotlib.rc_context(FONT):
            self.draw().savefig(file, format=ending[1:], dpi=scale * DPI, **more)
        if ending == ".png":  # a fifth smaller without transparency, of which there is none
            image, file = Image.open(file).convert("RGB"), io.BytesIO()
            image.save(file, "PNG", optimize=True)
        return file.getvalue()

    def save(self, path: Path, scale: int = 2) -> None:
        """Write the grid to its `vitlab.visualization.plots.figure_files`."""
        for ending, file in figure_files(path).items():
            write_bytes(file, self.encode(ending, scale))


def png_pixels(png: bytes) -> UInt8[Tensor, "3 height width"]:
    """Return the image in the content of a file."""
    return decode_png(torch.frombuffer(bytearray(png), dtype=torch.uint8), ImageReadMode.RGB)


def _text(
    axes: Axes, x: float, y: float, text: str, width: float, size: int = LARGE, **style: Any
) -> None:
    """Write a text, broken into lines of about a width."""
    letters = max(1, int(width / (CHARACTER * size)))
    lines = "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))
    axes.text(x, y, lines, fontsize=size * 72 / DPI, **{"va": "top", **style})


def _image(
    axes: Axes, x: float, y: float, image: Tensor, size: tuple[int, int], smooth: bool
) -> None:
    pixels = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    place = (x, x + size[1], y + size[0], y)
    style: dict[str, Any] = {"extent": place, "aspect": "auto", "clip_on": False}
    style["interpolation"] = "antialiased" if smooth else "nearest"
    axes.imshow(pixels.permute(1, 2, 0).numpy(), **style)


def _key(axes: Axes, x: float, y: float, key: Key) -> None:
    """Draw a color or a color map, with what its ends mean."""
    if isinstance(key.color, str):
        first = ABOVE_ZERO if key.color == ATTENTION else 0
        steps = matplotlib.colormaps[key.color](np.linspace(first, 1, BAR))
        colors, bar = torch.from_numpy(steps[:, :3]), BAR
    else:
        colors, bar = torch.tensor([key.color]), SWATCH
    if key.low:
        _text(axes, x, y, key.low, BAR, SMALL)
        x += CHARACTER * SMALL * len(key.low) + GAP
    _image(axes, x, y, colors.T[:, None], (SWATCH, bar), False)
    _text(axes, x + bar + GAP, y, key.text, 10 * BAR, SMALL)


def displayed_size(image: Float[Tensor, "3 _ _"], height: int) -> tuple[int, int]:
    """Return height and width of an image in a grid, its aspect kept."""
    tall, wide = image.shape[1:]
    scale = min(height / tall, 2 * height / wide)
    return max(1, round(tall * scale)), max(1, round(wide * scale))
