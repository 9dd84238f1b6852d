"""The style of all plots in one place: sizes, font, colors, markers, dashes; PNG, SVG and PDF.

A figure is as wide as a column (3.3 in) or the text (6.9 in) of a paper, with letters of 8 points
at most. Every line has a color of Okabe and Ito's palette, safe for color blindness, a marker and a
dash of its own, for print in black and white. Nothing depends on the time, nor text on a font of
the machine: equal numbers give equal bytes.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitlab.atomic_io import write_bytes
from vitlab.visualization.colors import LINE_COLORS

Dash = Any  # of a line, as matplotlib takes it: "-", or lengths of strokes and gaps

COLUMN, TEXT = 3.3, 6.9  # inches: width of a column and of the text of a paper
HEIGHT, LEGEND_ROW = 2.1, 0.16  # inches: of a panel, of a line of the legend
DPI = 300  # of a PNG
FORMATS = (".png", ".svg", ".pdf")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: Sequence[Dash] = ("-", (0, (5, 1.4)), (0, (1.2, 1.1)), (0, (5, 1.2, 1.2, 1.2)))
REFERENCE_DASH = (0, (1, 2))  # of chance, of raw pixels
LABEL = 26  # letters of a label
FONT: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "text.usetex": False,
    "text.parse_math": False,  # no dollar sign of a label starts a formula
    "svg.fonttype": "path",
    "svg.hashsalt": "vitlab",
    "pdf.fonttype": 42,
}
STYLE = FONT | {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.4,
    "savefig.facecolor": "white",
}
METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Style(NamedTuple):
    """Color, marker and dash of a line, and a label short enough for a legend."""

    label: str
    color: str
    marker: str
    dash: Dash


@contextmanager
def plot_style() -> Iterator[None]:
    """Make and render figures in the style of this file, whatever else is set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Return the style of each label."""
    found = {}
    looks = zip(labels, cycle(LINE_COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for index, (label, *look) in enumerate(looks):
        short = "".join(each if each.isprintable() else " " for each in label)
        if len(short) > LABEL:
            short = f"{index + 1}: …{short[5 - LABEL :]}"
        found[label] = Style(short, *look)
    return found


def handle(label: str, color: str, marker: str, dash: Dash) -> Line2D:
    """Return the entry of a legend; the space shows labels that start with an underscore."""
    return Line2D([], [], color=color, marker=marker, linestyle=dash, label=f" {label}")


def new_figure(
    count: int,
    legend: Sequence[Line2D] = (),
    *,
    across: int = 3,
    height: float = HEIGHT,
    share: bool = True,
    heights: Sequence[float] = (),
    note: str = "",
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels and, below them, a legend.

    One panel is as wide as a column, several are as wide as the text.

    Args:
        count: of panels.
        legend: entries.
        across: panels side by side at most; fewer where that leaves no gap in the last line.
        height: inches of a line of panels.
        share: whether panels share the x axis.
        heights: inches of each line of panels, where they differ.
        note: small text above the legend.
    """
    lines = math.ceil(count / min(across, count))
    across = math.ceil(count / lines)
    heights = heights or [height] * lines
    columns = 2 if across == 1 else 4
    width = COLUMN if across == 1 else TEXT
    note = "\n".join(fill(line, int(20 * width)) for line in note.splitlines())
    rows = math.ceil(len(legend) / columns) + 0.7 * len(note.splitlines())
    figure = Figure((width, sum(heights) + LEGEND_ROW * rows), layout="constrained")
    axes = figure.subplots(
        lines, across, squeeze=False, sharex=share, height_ratios=list(heights)
    ).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes:
        axis.tick_params(labelbottom=True)  # also where the panel below is empty
    if legend:
        place: Any = "outside lower center"
        look: Any = {"frameon": False, "handlelength": 2.6, "title_fontsize": 6}
        figure.legend(
            handles=legend, loc=place, ncols=columns, title=note or None, alignment="left", **look
        )
    return figure, list(axes[:count])


def plot_line(
    axis: Axes, rows: pd.DataFrame, x: str, style: Style, *, ring: bool = False, steps: bool = False
) -> None:
    """Plot a line with its band.

    Args:
        axis: to plot on.
        rows: mean, low, high, and the column of the x axis.
        x: that column.
        style: of the line.
        ring: whether the largest number gets one.
        steps: whether the line is the outline of bins around x, without a band.
    """
    color, drawing = style.color, "steps-mid" if steps else "default"
    look: Any = {"color": color, "linestyle": style.dash, "drawstyle": drawing}
    axis.plot(rows[x], rows["mean"], marker="" if steps else style.marker, **look)
    if len(rows) == 1:
        axis.vlines(rows[x], rows["low"], rows["high"], color=color, linewidth=1)
    elif not steps:
        axis.fill_between(rows[x], rows["low"], rows["high"], color=color, alpha=0.15, lw=0)
    if ring and rows["mean"].notna().any():
        top = rows.loc[rows["mean"].idxmax()]
        axis.plot(top[x], top["mean"], "o", ms=8, mfc="none", mec=color, mew=1.1)


def plot_dots(axis: Axes, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """Plot a dot with its interval for each row, downward, and small rings for its seeds.

    Args:
        axis: to plot on.
        rows: label, mean, low, high and, where there are several seeds, by_seed.
        styles: by label.
    """
    for place, row in enumerate(rows.to_dict("records")):
        style = styles[row["label"]]
        axis.plot([row["low"], row["high"]], [place] * 2, color=style.color, linewidth=1.6)
        axis.plot(row["mean"], place, style.marker, color=style.color, markersize=4.5)
        seeds = row.get("by_seed")
        if isinstance(seeds, list) and len(seeds) > 1:  # below the line, not to be hidden by it
            below = [place + 0.28] * len(seeds)
            axis.plot(seeds, below, "o", color="0.45", markersize=2.8, fillstyle="none", mew=0.7)
    settle(axis)
    axis.set_yticks(range(len(rows)), [styles[label].label for label in rows["label"]])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def settle(axis: Axes) -> None:
    """Widen axes along which all numbers are one: all zeros are no range of +-0.05 around them."""
    for limits, set_limits in (
        (axis.dataLim.intervalx, axis.set_xlim),
        (axis.dataLim.intervaly, axis.set_ylim),
    ):
        if limits[0] == limits[1]:
            set_limits(min(0.0, 2 * limits[0]), max(0.0, 2 * limits[0]) or 1.0)


def render(figure: Figure, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """Return the content of a file of each format, all of one layout."""
    found = {}
    with plot_style(), warnings.catch_warnings():
        # a letter that the font lacks is drawn as a box; tables and pages have every letter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.set_dpi(DPI)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for each in formats:
            file = io.BytesIO()
            figure.savefig(file, format=each[1:], dpi=DPI, metadata=METADATA[each])
            found[each] = file.getvalue()
    return found


def figure_files(out: Path) -> dict[str, Path]:
    """Return the files of a figure by format: one where `out` has the ending of a figure, or all.

    `vitlab ... --out curves.pdf` writes that file, `--out curves` one of each format.
    """
    if out.suffix.lower() in FORMATS:
        return {out.suffix.lower(): out}
    return {ending: out.with_name(out.name + ending) for ending in FORMATS}


def without_ending(out: Path) -> Path:
    """Return the name of the other files beside a figure."""
    return out.with_suffix("") if out.suffix.lower() in FORMATS else out


def save(figure: Figure, out: Path) -> None:
    """Write a figure to its `figure_files`."""
    files = figure_files(out)
    for ending, content in render(figure, [*files]).items():
        write_bytes(files[ending], content)
