"""Style of a report's figures: colors, legends, axes, and how figures become files.

Every model has a color of Okabe and Ito's palette, safe for color blindness, a marker and a dash
of its own, for print without color. Text is drawn as paths, so that no font is needed, and nothing
depends on the time: equal results give equal bytes.
"""

import io
import math
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitlab.analysis.report.table import DASH
from vitlab.visualization.colors import LINE_COLORS

Dash = Any  # of a line, as matplotlib takes it: "-", or lengths of strokes and gaps

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: Sequence[Dash] = ("-", (0, (5, 1.4)), (0, (1.2, 1.1)), (0, (5, 1.2, 1.2, 1.2)))
WIDTH, HEIGHT = 3.7, 2.35  # inches: a column of a paper; the legend comes below
LEGEND_ROW = 0.17  # inches
DPI = 200  # of a PNG
AXIS_LETTERS, LABEL_LETTERS, ROW_LETTERS = 30, 26, 24  # beside an axis; of a label; of a legend row
STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "vitlab",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Style:
    """Color, marker and dash of a model, and a label short enough for a legend."""

    label: str
    color: str
    marker: str
    dash: Dash

    def handle(self, dash: Dash | None = None, marker: str | None = None) -> Line2D:
        """Return the entry of a legend."""
        return Line2D(
            *([], []),
            color=self.color,
            marker=self.marker if marker is None else marker,
            linestyle=self.dash if dash is None else dash,
            label=self.label,
        )


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Return the style of each model, by label."""
    found: dict[str, Style] = {}
    short: set[str] = set()
    cycles = zip(labels, cycle(LINE_COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for label, color, marker, dash in cycles:
        name = base = shorten(label)
        count = 1
        while name in short:
            count += 1
            name = f"{base} ({count})"
        short.add(name)
        found[label] = Style(name, color, marker, dash)
    return found


def shorten(label: str, letters: int = LABEL_LETTERS) -> str:
    """Return a label on one line, without what cannot be printed, its middle left out if long."""
    seen = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in label)
    seen = " ".join(seen.split()) or DASH
    if len(seen) <= letters:
        return seen
    head = (letters - 1) // 2
    return f"{seen[:head]}…{seen[-(letters - 1 - head) :]}"


def escape(text: str) -> str:
    """Return text for matplotlib, in which no dollar sign starts a formula."""
    return text.replace("$", r"\$")


def new_figure(
    count: int, size: tuple[float, float], entries: int = 0, *, across: int = 3, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of one size in inches, which share their axes.

    Below them is place for the entries of a legend; at most `across` panels are in a row.
    """
    across = min(across, count)
    down = math.ceil(count / across)
    high = down * size[1] + LEGEND_ROW * math.ceil(entries / 2)
    figure = Figure(figsize=(across * size[0], high), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=sharey).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[max(0, count - across) : count]:
        panel.tick_params(labelbottom=True)  # also where the panel below is empty
    return figure, list(panels[:count])


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Draw a legend below the panels, in two columns; labels are shown as they are."""
    if not handles:
        return
    names = [str(handle.get_label()) for handle in handles]
    one_row = len(names) <= 3 and sum(map(len, names)) <= ROW_LETTERS
    drawn = figure.legend(
        handles,
        [f"entry {index}" for index in range(len(names))],  # a label that starts with _ is hidden
        loc="outside lower center",
        ncols=len(names) if one_row else min(2, len(names)),
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0.1,
    )
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(escape(name))


def label_axes(panel: Axes, x: str, y: str, title: str = "") -> None:
    """Name the axes of a panel, and the panel."""
    panel.set(xlabel=x, ylabel=textwrap.fill(escape(y), AXIS_LETTERS), title=escape(title))


def render(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as SVG and PNG."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # a letter that the font lacks is drawn as a box; the page itself has every letter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.set_dpi(DPI)
        figure.draw_without_rendering()  # lays it out, once for both files
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        figure.set_dpi(DPI)  # an SVG has 72
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


@contextmanager
def plot_style() -> Iterator[None]:
    """Make and render figures in the style of this file, whatever else is set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
