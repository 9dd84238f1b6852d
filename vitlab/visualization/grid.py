"""Grid of images: columns with titles, rows with labels, legends, color bars; as pixels or a file.

Lengths are pixels, 100 to the inch; a grid of scale 2 has twice as many of them.

Axis letters: h, w pixels of the grid.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageFont
from torch import Tensor

from vitlab.atomic_io import write_bytes
from vitlab.visualization.colors import Color

HEIGHT, DPI = 200, 100
MARGIN, GAP, LINE = 14, 6, 19
LARGE, SMALL = 14, 12  # heights of text
SWATCH, BAR, MIN_WIDTH = 14, 140, 300
ENDINGS = (".png", ".svg", ".pdf")
# text as outlines, the same on every machine; nothing in a file that differs between runs
STYLE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "vitlab", "pdf.fonttype": 42}
STYLE |= {"font.family": "DejaVu Sans", "text.usetex": False, "text.parse_math": False}
NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

Point = tuple[float, float]
Key = tuple[Color, str]  # a color and its meaning


@dataclass(frozen=True)
class ColorBar:
    """A color map of matplotlib, with what its first and its last color mean."""

    colors: str
    low: str
    high: str


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
    marks: Sequence[Point | None] = ()


@dataclass(frozen=True)
class ImageGrid:
    """Columns of images with everything around them.

    Attributes:
        columns: from left to right.
        labels: of the rows.
        keys: groups of colors or color bars with their meaning, each on lines of its own.
        caption: below all.
        height: of the rows; images wider than twice that are lower.
    """

    columns: Sequence[GridColumn]
    labels: Sequence[str] = ()
    keys: Sequence[Sequence[Key | ColorBar]] = ()
    caption: str = ""
    height: int = HEIGHT

    def render(self, scale: int = 1) -> UInt8[Tensor, "3 h w"]:
        """Return the grid as an image."""
        with matplotlib.rc_context(STYLE):
            canvas = FigureCanvasAgg(_draw(self, scale))
            canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()

    def encode(self, ending: str = ".png", scale: int = 2) -> bytes:
        """Return a file's content, the same each time; text of .svg and .pdf is vectors."""
        if ending == ".png":
            return encode_png(self.render(scale))
        file = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            _draw(self, scale).savefig(file, format=ending[1:], metadata=NO_DATE[ending])
        return file.getvalue()

    def save(self, path: Path, scale: int = 2) -> None:
        """Write the grid, at once or not at all, in the format of the file's ending."""
        write_bytes(path, self.encode(path.suffix.lower(), scale))


def encode_png(image: UInt8[Tensor, "3 h w"]) -> bytes:
    """Return an image as the content of a file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()


class _Canvas:
    """A figure with one pair of axes over all of it, in pixels from the upper left."""

    def __init__(self, width: int, height: int, scale: int):
        self.scale = scale
        self.figure = Figure((width / DPI, height / DPI), dpi=DPI * scale)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(
        self, x: float, y: float, text: str | list[str], size: int = LARGE, **style: Any
    ) -> None:
        """Write a text, or its lines."""
        lines = text if isinstance(text, str) else "\n".join(text)
        style = {"va": "top", "linespacing": 1.16 * LARGE / size, **style}
        self.axes.text(x, y, lines, fontsize=size * 72 / DPI, **style)

    def image(self, x: float, y: float, image: Tensor, size: tuple[int, int], smooth: bool) -> None:
        height, width = size
        pixels = resized(image, (height * self.scale, width * self.scale), smooth)
        extent = (x, x + width, y + height, y)
        array = pixels.permute(1, 2, 0).numpy()
        self.axes.imshow(array, extent=extent, interpolation="none", aspect="auto")

    def ring(self, x: float, y: float) -> None:
        for color, thick in (("black", 3.2), ("white", 1.6)):
            self.axes.plot(x, y, "o", ms=8, mfc="none", mec=color, mew=thick)

    def key(self, x: float, y: float, entry: Key | ColorBar) -> None:
        if isinstance(entry, ColorBar):
            start = x + text_width(entry.low, SMALL) + GAP
            colors = matplotlib.colormaps[entry.colors](np.linspace(0, 1, BAR))[None, :, :3]
            self.image(start, y, torch.from_numpy(colors).permute(2, 0, 1), (SWATCH, BAR), False)
            self.text(x, y - 1, entry.low, SMALL)
            self.text(start + BAR + GAP, y - 1, entry.high, SMALL)
            return
        color, text = entry
        swatch = Rectangle((x, y), SWATCH, SWATCH, facecolor=color, edgecolor="0.2", linewidth=0.5)
        self.axes.add_patch(swatch)
        self.text(x + SWATCH + GAP, y - 1, text, SMALL)


def _draw(grid: ImageGrid, scale: int) -> Figure:
    """Lay a grid out, from the top down, and draw it."""
    columns, rows = grid.columns, len(grid.columns[0].images)
    assert all(len(column.images) == rows for column in columns), "a row misses an image"
    sizes = [displayed_size(image, grid.height) for image in columns[0].images]
    note = LINE if any(column.notes for column in columns) else 0
    labels = [wrap(label, size[0] + note) for label, size in zip(grid.labels, sizes, strict=False)]
    left = MARGIN + LINE * max(map(len, labels), default=0)
    widths = [max(_min_widths(column, sizes)) for column in columns]
    width = max(left + sum(widths) + GAP * (len(columns) - 1) + MARGIN, MIN_WIDTH)
    titles = [wrap(column.title, wide) for column, wide in zip(columns, widths, strict=True)]
    lines = max(map(len, titles))
    top = MARGIN + LINE * lines + GAP * bool(lines)
    legend = LINE * max(len(column.legend) for column in columns)
    below = top + sum(height for height, _ in sizes) + (GAP + note) * rows + legend
    groups = [list(_flow(group, width - MARGIN)) for group in grid.keys if group]
    caption = wrap(grid.caption, width - 3 * MARGIN, SMALL)
    lines = sum(1 + group[-1][1] for group in groups) + len(caption)
    canvas = _Canvas(width, below + LINE * lines + MARGIN, scale)

    tops = list(_offsets(top, [height + note for height, _ in sizes]))
    for y, (height, _), label in zip(tops, sizes, labels, strict=False):
        x = MARGIN + LINE * (len(label) / 2 - 0.15)
        canvas.text(x, y + height / 2, label, ha="center", va="center", rotation=90)
    for column, title, x, wide in zip(columns, titles, _offsets(left, widths), widths, strict=True):
        canvas.text(x + wide / 2, top - GAP, title, ha="center", va="bottom")
        _draw_column(canvas, column, x, wide, tops, sizes)
    for group in groups:
        for x, line, entry in group:
            canvas.key(x, below + LINE * line, entry)
        below += LINE * (1 + group[-1][1])
    canvas.text(MARGIN, below + 3, caption, SMALL, color="0.3")
    return canvas.figure


def _draw_column(
    canvas: _Canvas,
    column: GridColumn,
    x: int,
    width: int,
    tops: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Draw the images of a column, each in the middle, with marks, notes and legend."""
    for row, (y, size) in enumerate(zip(tops, sizes, strict=True)):
        left = x + (width - size[1]) // 2
        canvas.image(left, y, column.images[row], size, column.smooth)
        mark = column.marks[row] if column.marks else None
        if mark is not None:
            canvas.ring(left + mark[0] * size[1], y + mark[1] * size[0])
        if column.notes:
            note = column.notes[row]
            canvas.text(x + width / 2, y + size[0] + 2, note, SMALL, ha="center", color="0.3")
    bottom = tops[-1] + sizes[-1][0] + (LINE if column.notes else 0) + GAP
    for line, key in enumerate(column.legend):
        canvas.key(x, bottom + LINE * line, key)


def displayed_size(image: Float[Tensor, "3 _ _"], height: int) -> tuple[int, int]:
    """Return height and width of an image in a grid, its aspect kept."""
    tall, wide = image.shape[1:]
    scale = min(height / tall, 2 * height / wide)
    return max(1, round(tall * scale)), max(1, round(wide * scale))


def resized(
    image: Float[Tensor, "3 _ _"], size: tuple[int, int], smooth: bool
) -> UInt8[Tensor, "3 _ _"]:
    """Return an image at another size: a photograph without aliases, or a map with sharp cells."""
    batch = image[None].cpu().float()
    if smooth:
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
    else:
        batch = F.interpolate(batch, size, mode="nearest-exact")
    return batch[0].clamp(0, 1).mul(255).round().to(torch.uint8)


def text_width(text: str, size: int = LARGE) -> int:
    """Return the width of a line of text."""
    return int(_font().getlength(text) * size / 100) + 1


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's sans serif, to measure text."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 100)


def wrap(text: str, width: int, size: int = LARGE) -> list[str]:
    """Return text in lines of a width, broken between words."""
    lines: list[str] = []
    for paragraph in text.split("\n") if text else ():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _min_widths(column: GridColumn, sizes: Sequence[tuple[int, int]]) -> Iterator[int]:
    yield from (wide for _, wide in sizes)
    yield from (text_width(word) for word in column.title.split())
    yield from (SWATCH + GAP + text_width(name, SMALL) for _, name in column.legend)
    yield from (text_width(note, SMALL) for note in column.notes)


def _flow(group: Sequence[Key | ColorBar], width: int) -> Iterator[tuple[int, int, Key | ColorBar]]:
    """Yield entries with their places: pixels from the left, and line."""
    x, line = MARGIN, 0
    for entry in group:
        if isinstance(entry, ColorBar):
            length = BAR + text_width(entry.low, SMALL) + text_width(entry.high, SMALL) + 4 * GAP
        else:
            length = SWATCH + text_width(entry[1], SMALL) + 3 * GAP
        if x > MARGIN and x + length > width:
            x, line = MARGIN, line + 1
        yield x, line, entry
        x += length


def _offsets(start: int, sizes: Sequence[int]) -> Iterator[int]:
    for size in sizes:
        yield start
        start += size + GAP
