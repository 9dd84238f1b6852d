"""Sheets of images: columns with titles, rows with labels, legends, scales; as pixels or a file.

All lengths are pixels, 100 to the inch; a sheet of scale 2 has twice as many of them.

Axis letters: h, w pixels of the sheet.
"""

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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from vitlab.atomic_io import write_bytes
from vitlab.visualization.colors import Color
from vitlab.visualization.text_layout import LETTERS, SMALL, letters, wrapped

HEIGHT, DOTS = 200, 100
MARGIN, GAP, LINE = 14, 6, 19
SWATCH, BAR, NARROWEST = 14, 140, 300
ENDINGS = (".png", ".svg", ".pdf")
# letters as outlines, the same on every machine; nothing in a file that differs between runs
STYLE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "vitlab", "pdf.fonttype": 42}
STYLE |= {"font.family": "DejaVu Sans", "text.usetex": False, "text.parse_math": False}
NO_DATE = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

Point = tuple[float, float]
Key = tuple[Color, str]


@dataclass(frozen=True)
class Scale:
    """What the colors of maps mean.

    Attributes:
        colors: name of matplotlib's map.
        low: what the first color stands for.
        high: the same of the last.
    """

    colors: str
    low: str
    high: str


@dataclass(frozen=True)
class GridColumn:
    """Images of one kind, one for each row.

    Attributes:
        title: what they show.
        images: in [0, 1], each of its own size; in a row, all are shown at that of the first.
        legend: colors and what they stand for, below the last.
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
    """What is drawn.

    Attributes:
        columns: from left to right.
        labels: of the rows.
        keys: groups of colors or scales with what they stand for, each on lines of its own.
        caption: below all.
        height: of the rows; images that are wider than twice that are made lower.
    """

    columns: Sequence[GridColumn]
    labels: Sequence[str] = ()
    keys: Sequence[Sequence[Key | Scale]] = ()
    caption: str = ""
    height: int = HEIGHT

    def render(self, scale: int = 1) -> UInt8[Tensor, "3 h w"]:
        """Return the grid as an image."""
        with matplotlib.rc_context(STYLE):
            canvas = FigureCanvasAgg(_Drawing(self, scale).figure)
            canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]
        return torch.from_numpy(drawn.copy()).permute(2, 0, 1).contiguous()

    def encode(self, ending: str = ".png", scale: int = 2) -> bytes:
        """Return a file's content, the same each time; text of .svg and .pdf is vectors."""
        if ending == ".png":
            return encode_png(self.render(scale))
        file = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure = _Drawing(self, scale).figure
            figure.savefig(file, format=ending[1:], metadata=NO_DATE[ending])
        return file.getvalue()

    def save(self, path: Path, scale: int = 2) -> None:
        """Write the grid, at once or not at all, in the format that the ending names."""
        write_bytes(path, self.encode(path.suffix.lower(), scale))


def encode_png(picture: UInt8[Tensor, "3 h w"]) -> bytes:
    """Return an image as the content of a file."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()


class _Drawing:
    """A sheet on a figure of matplotlib: one pair of axes over all of it, in pixels from the top.

    Args:
        sheet: what to draw.
        scale: pixels of the figure in each of ours.
    """

    def __init__(self, sheet: ImageGrid, scale: int):
        self.sheet, self.scale = sheet, scale
        columns, count = sheet.columns, len(sheet.columns[0].images)
        assert all(len(column.images) == count for column in columns), "a row misses an image"
        self.sizes = [shown(each, sheet.height) for each in columns[0].images]
        self.heights = [tall for tall, _ in self.sizes]
        self.widths = [max(_widths(column, self.sizes)) for column in columns]
        self.notes = LINE if any(column.notes for column in columns) else 0
        self.labels = [
            wrapped(label, tall + self.notes)
            for label, tall in zip(sheet.labels, self.heights, strict=False)
        ]
        self.left = MARGIN + LINE * max(map(len, self.labels), default=0)
        wide = self.left + sum(self.widths) + GAP * (len(columns) - 1) + MARGIN
        self.width = max(wide, NARROWEST)
        self.titles = [
            wrapped(column.title, width) for column, width in zip(columns, self.widths, strict=True)
        ]
        lines = max(map(len, self.titles))
        self.top = MARGIN + LINE * lines + GAP * bool(lines)
        groups = [list(self._flow(group)) for group in sheet.keys if group]
        caption = wrapped(sheet.caption, self.width - 2 * MARGIN, SMALL)
        legend = max(len(column.legend) for column in columns)
        below = self.top + sum(self.heights) + (GAP + self.notes) * count + LINE * legend
        lines = sum(1 + group[-1][1] for group in groups) + len(caption)
        height = below + LINE * lines + MARGIN
        self.figure = Figure((self.width / DOTS, height / DOTS), dpi=DOTS * scale)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.width), ylim=(height, 0))
        self.axes.axis("off")
        self._write_titles()
        for number, x in enumerate(_along(self.left, self.widths)):
            self._draw_column(number, x)
        for group in groups:
            for x, line, entry in group:
                self._key(x, below + LINE * line, entry)
            below += LINE * (1 + group[-1][1])
        for place, text in enumerate(caption):
            self._write(MARGIN, below + LINE * place + 3, text, SMALL, color="0.3")

    def _write_titles(self) -> None:
        """Write titles above the columns, upwards from the images, and labels left of the rows."""
        for x, lines, width in zip(
            _along(self.left, self.widths), self.titles, self.widths, strict=True
        ):
            for place, text in enumerate(reversed(lines), 1):
                self._write(x + width / 2, self.top - GAP - LINE * place, text, ha="center")
        tops = _along(self.top, self.heights, self.notes)
        for y, tall, lines in zip(tops, self.heights, self.labels, strict=False):
            for place, text in enumerate(lines):
                style: dict[str, Any] = {"ha": "center", "va": "center", "rotation": 90}
                self._write(MARGIN + LINE * (place + 0.35), y + tall / 2, text, **style)

    def _draw_column(self, number: int, x: int) -> None:
        column, width = self.sheet.columns[number], self.widths[number]
        tops = _along(self.top, self.heights, self.notes)
        bottom = self.top
        for row, (image, y) in enumerate(zip(column.images, tops, strict=True)):
            tall, wide = self.sizes[row]
            left = x + (width - wide) // 2
            dots = fitted(image, (tall * self.scale, wide * self.scale), column.smooth)
            self._image(left, y, dots, (tall, wide))
            mark = column.marks[row] if column.marks else None
            if mark is not None:
                point = (left + mark[0] * wide, y + mark[1] * tall)
                for color, thick in (("black", 3.2), ("white", 1.6)):
                    self.axes.plot(*point, "o", ms=8, mfc="none", mec=color, mew=thick)
            bottom = y + self.heights[row]
            if column.notes:
                style: dict[str, Any] = {"ha": "center", "color": "0.3"}
                self._write(x + width / 2, bottom + 2, column.notes[row], SMALL, **style)
        for place, key in enumerate(column.legend):
            self._key(x, bottom + self.notes + GAP + LINE * place, key)

    def _image(
        self, x: float, y: float, image: UInt8[Tensor, "3 _ _"], size: Sequence[int]
    ) -> None:
        extent = (x, x + size[1], y + size[0], y)
        array = image.permute(1, 2, 0).numpy()
        self.axes.imshow(array, extent=extent, interpolation="none", aspect="auto")

    def _flow(self, group: Sequence[Key | Scale]) -> Iterator[tuple[int, int, Key | Scale]]:
        """Yield the entries with their places: pixels from the left, and line."""
        x, line = MARGIN, 0
        for entry in group:
            if x > MARGIN and x + _length(entry) > self.width - MARGIN:
                x, line = MARGIN, line + 1
            yield x, line, entry
            x += _length(entry)

    def _key(self, x: float, y: float, entry: Key | Scale) -> None:
        if isinstance(entry, Scale):
            start = x + letters(entry.low, SMALL) + GAP
            steps = matplotlib.colormaps[entry.colors](np.linspace(0, 1, BAR))[None, :, :3]
            bar = torch.from_numpy(steps).mul(255).round().to(torch.uint8).permute(2, 0, 1)
            self._image(start, y, bar, (SWATCH, BAR))
            self._write(x, y - 1, entry.low, SMALL)
            self._write(start + BAR + GAP, y - 1, entry.high, SMALL)
            return
        color, name = entry
        self.axes.add_patch(
            Rectangle((x, y), SWATCH, SWATCH, facecolor=color, edgecolor="0.2", linewidth=0.5)
        )
        self._write(x + SWATCH + GAP, y - 1, name, SMALL)

    def _write(self, x: float, y: float, text: str, size: int = LETTERS, **style: Any) -> None:
        style = {"va": "top", **style}
        self.axes.text(x, y, text, fontsize=size * 72 / DOTS, **style)


def shown(image: Float[Tensor, "3 _ _"], height: int) -> tuple[int, int]:
    """Return height and width of an image on a sheet, its aspect kept."""
    tall, wide = image.shape[1:]
    scale = min(height / tall, 2 * height / wide)
    return max(1, round(tall * scale)), max(1, round(wide * scale))


def fitted(
    image: Float[Tensor, "3 _ _"], size: tuple[int, int], smooth: bool
) -> UInt8[Tensor, "3 _ _"]:
    """Return an image at another size: a photograph without aliases, or a map with sharp cells."""
    batch = image[None].cpu().float()
    if smooth:
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
    else:
        batch = F.interpolate(batch, size, mode="nearest-exact")
    return batch[0].clamp(0, 1).mul(255).round().to(torch.uint8)


def _widths(column: GridColumn, sizes: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield how wide a column must be for each of its parts; titles are broken between words."""
    yield from (wide for _, wide in sizes)
    yield from (letters(word) for word in column.title.split())
    yield from (SWATCH + GAP + letters(name, SMALL) for _, name in column.legend)
    yield from (letters(note, SMALL) for note in column.notes)


def _length(entry: Key | Scale) -> int:
    if isinstance(entry, Scale):
        return BAR + letters(entry.low, SMALL) + letters(entry.high, SMALL) + 4 * GAP
    return SWATCH + letters(entry[1], SMALL) + 3 * GAP


def _along(start: int, sizes: Sequence[int], more: int = 0) -> Iterator[int]:
    for size in sizes:
        yield start
        start += size + GAP + more
