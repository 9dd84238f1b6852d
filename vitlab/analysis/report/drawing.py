"""What all figures of a report share: size, colors, legend, and how they become files.

Every model has a color of Okabe and Ito's, which color-blind readers can tell apart, and a marker
and a dash of its own, for print without color. Text is drawn as curves, so that no font is
needed, and nothing depends on the time: equal findings give equal bytes.
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
from matplotlib.text import Text

from vitlab.visualization.colors import LINE_COLORS

Dash = Any  # of a line, as matplotlib takes it: "-", or lengths of strokes and gaps

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: Sequence[Dash] = ("-", (0, (5, 1.4)), (0, (1.2, 1.1)), (0, (5, 1.2, 1.2, 1.2)))
WIDTH, HEIGHT = 3.7, 2.35  # inches: a column of a paper; the legend comes below
DASH = "\N{EN DASH}"  # for what is no number
LINE = 30  # letters of what stands beside an axis
ACROSS = 3  # panels
ROW = 24  # letters of labels that stand in one row
LETTERS = 26  # of a label in a legend
DOTS = 200  # per inch of a PNG
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
class Look:
    """How a model is drawn.

    Attributes:
        label: short enough for a legend, unique.
        color, marker, dash: as matplotlib takes them.
    """

    label: str
    color: str
    marker: str
    dash: Dash


@dataclass(frozen=True)
class Table:
    """The numbers of a figure, as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn.

    Attributes:
        name: of its files, without ending.
        title: what it shows.
        caption: what is averaged over what, and what the band is.
        alt: the same for those who cannot see it, with the numbers that matter.
        svg, png: the files.
        table: the numbers.
        wide: takes the whole width of the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes
    table: Table
    wide: bool = False


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return how each model is drawn, by label."""
    found: dict[str, Look] = {}
    short: set[str] = set()
    styles = zip(labels, cycle(LINE_COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for label, color, marker, dash in styles:
        name = base = shorten(label)
        count = 1
        while name in short:
            count += 1
            name = f"{base} ({count})"
        short.add(name)
        found[label] = Look(name, color, marker, dash)
    return found


def shorten(label: str, letters: int = LETTERS) -> str:
    """Return a label on one line, without what cannot be printed, its middle left out if long."""
    seen = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in label)
    seen = " ".join(seen.split()) or DASH
    if len(seen) <= letters:
        return seen
    head = (letters - 1) // 2
    return f"{seen[:head]}…{seen[-(letters - 1 - head) :]}"


def number(value: float | None) -> str:
    """Return three digits of a number, or a dash for none, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def bounds(low: float | None, high: float | None) -> str:
    """Return "[low, high]", or nothing where there is no interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    digits = decimals(low, high)
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def decimals(low: float, high: float) -> int:
    """Return how many decimals show two digits of half an interval."""
    half = (high - low) / 2
    return 3 if half <= 0 else min(6, max(0, 1 - math.floor(math.log10(half))))


def center(mean: float | None, low: float | None, high: float | None) -> str:
    """Return a mean with as many digits as its interval."""
    if mean is None or not math.isfinite(mean) or not bounds(low, high):
        return number(mean)
    return f"{mean:.{decimals(low or 0.0, high or 0.0)}f}"


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Return "mean [low, high]", or the mean alone where there is no interval."""
    return f"{center(mean, low, high)} {bounds(low, high)}".strip()


def plottable(values: Sequence[float | None]) -> list[float]:
    """Return the values with NaN, which is not drawn, for all that is no finite number."""
    return [math.nan if v is None or not math.isfinite(v) else float(v) for v in values]


def say(text: Text) -> None:
    """Show text as it is: no dollar sign starts a formula."""
    text.set_parse_math(False)


def sheet(entries: int, wide: float = WIDTH, high: float = HEIGHT) -> Figure:
    """Return an empty figure with room for a legend of so many entries below."""
    return Figure(figsize=(wide, high + 0.17 * math.ceil(entries / 2)), layout="constrained")


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Draw a legend below the panels, in two columns; labels are shown as they are."""
    if not handles:
        return
    names = [str(handle.get_label()) for handle in handles]
    drawn = figure.legend(
        handles,
        [f"entry {index}" for index in range(len(names))],  # a label that starts with _ is hidden
        loc="outside lower center",
        ncols=len(names) if len(names) <= 3 and sum(map(len, names)) <= ROW else min(2, len(names)),
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0.1,
    )
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
        say(text)


def label_axes(panel: Axes, x: str, y: str, title: str = "") -> None:
    """Name the axes of a panel, and the panel."""
    say(panel.set_xlabel(x))
    say(panel.set_ylabel(textwrap.fill(y, LINE)))
    say(panel.set_title(title))


def of_model(look: Look, dash: Dash | None = None, marker: str | None = None) -> Line2D:
    """Return the entry of a model in a legend, with its own dash and marker if none are given."""
    return Line2D(
        *([], []),
        color=look.color,
        marker=look.marker if marker is None else marker,
        linestyle=look.dash if dash is None else dash,
        label=look.label,
    )


def render(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as SVG and PNG."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # a letter that the font lacks is drawn as a box; the page itself has every letter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.set_dpi(DOTS)
        figure.draw_without_rendering()  # lays it out, once for both files
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        figure.set_dpi(DOTS)  # an SVG has 72
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def small_multiples(
    count: int, wide: float, high: float, entries: int
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels of one size, which share their axes.

    Args:
        count: of panels, at least one.
        wide: inches of a panel.
        high: inches of a panel.
        entries: of the legend.
    """
    across = min(ACROSS, count)
    down = math.ceil(count / across)
    rows = math.ceil(entries / 2)
    figure = Figure(figsize=(across * wide, down * high + 0.17 * rows), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[max(0, count - across) : count]:
        panel.tick_params(labelbottom=True)  # also where the panel below is empty
    return figure, list(panels[:count])


@contextmanager
def style() -> Iterator[None]:
    """Make and render figures as this file says, whatever else is set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
