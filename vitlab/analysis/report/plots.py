"""Plots of a report: lines, maps and channels, in one style.

Every model has a color of Okabe and Ito's palette, safe for color blindness, a marker and a dash
of its own, for print without color. Text is drawn as paths, so that no font is needed, and nothing
depends on the time: equal results give equal bytes.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from vitlab.visualization.colors import LINE_COLORS

Dash = Any  # of a line, as matplotlib takes it: "-", or lengths of strokes and gaps

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: Sequence[Dash] = ("-", (0, (5, 1.4)), (0, (1.2, 1.1)), (0, (5, 1.2, 1.2, 1.2)))
CHANCE_DASH = (0, (1, 2))
COLUMN = (3.7, 2.35)  # inches: a column of a paper; the legend comes below
LEGEND_ROW = 0.17  # inches
DPI = 200  # of a PNG
LABEL, AXIS = 26, 30  # letters of a model's label; of a line beside an axis
STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "vitlab",
    "text.parse_math": False,  # no dollar sign of a label starts a formula
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
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
    "savefig.facecolor": "white",
}


class Style(NamedTuple):
    """Color, marker and dash of a model, and a label short enough for a legend."""

    label: str
    color: str
    marker: str
    dash: Dash


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Return the style of each model, by label."""
    found = {}
    looks = zip(labels, cycle(LINE_COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for index, (label, *look) in enumerate(looks):
        short = "".join(each if each.isprintable() else " " for each in label)
        if len(short) > LABEL:
            short = f"{index + 1}: …{short[5 - LABEL :]}"
        found[label] = Style(short, *look)
    return found


def plot_lines(
    rows: pd.DataFrame,
    styles: Mapping[str, Style],
    *,
    x: str = "block",
    y: str = "",
    variant: str = "",
    panel: str = "",
    chance: float | None = None,
    rings: bool = False,
    histogram: bool = False,
) -> Figure:
    """Plot a line with its band for each model and variant.

    Args:
        rows: model, head, mean, low, high, and the columns that the other arguments name. What has
            a head is a dot beside its line.
        styles: by model.
        x: column of the x axis.
        y: title of the y axis.
        variant: column whose values are told apart by dashes.
        panel: column with a panel for each value.
        chance: level of a dotted line.
        rings: whether the largest number of each line gets a ring.
        histogram: whether lines are outlines of bins around x, on logarithmic axes.
    """
    own = [styles[label] for label in rows["model"].unique()]
    variants = dict(zip(rows[variant].unique() if variant else [""], cycle(DASHES), strict=False))
    single = len(variants) == 1
    legend = [_handle(s.label, s.color, s.marker, s.dash if single else "none") for s in own]
    if not single:
        legend += [_handle(name, "0.3", "", dash) for name, dash in variants.items()]
    if chance is not None:
        legend.append(_handle("chance", "0.45", "", CHANCE_DASH))
    panels = list(rows.groupby(panel, sort=False)) if panel else [("", rows)]
    figure, axes = _new_figure(len(panels), COLUMN, legend)
    for axis, (title, part) in zip(axes, panels, strict=True):
        for (label, *kind), line in part.groupby(["model", *filter(None, [variant])], sort=False):
            style = styles[label]
            style = style if single else style._replace(dash=variants[kind[0]])
            _plot_line(axis, line, x, style, rings, histogram)
        if chance is not None:
            axis.axhline(chance, color="0.45", linewidth=0.9, linestyle=CHANCE_DASH)
        name = styles[title].label if panel == "model" else title
        axis.set(xlabel=x, ylabel=textwrap.fill(y, AXIS), title=name)
        if x == "block":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        elif x == "point":
            axis.tick_params("x", rotation=35)
        if histogram and rows["mean"].notna().any():
            _set_log(axis, bool(rows[x].min() > 0), True)
    return figure


def _plot_line(
    axis: Axes, rows: pd.DataFrame, x: str, style: Style, rings: bool, histogram: bool
) -> None:
    color, marker = style.color, "" if histogram else style.marker
    dots, line = rows[rows["head"].notna()], rows[rows["head"].isna()]
    axis.plot(dots[x], dots["mean"], marker or ".", color=color, ms=3, alpha=0.5, mew=0)
    steps: Any = "steps-mid" if histogram else "default"
    axis.plot(line[x], line["mean"], color=color, ls=style.dash, marker=marker, drawstyle=steps)
    if len(line) == 1:
        axis.vlines(line[x], line["low"], line["high"], color=color, linewidth=1)
    elif not histogram:
        axis.fill_between(line[x], line["low"], line["high"], color=color, alpha=0.15, lw=0)
    if rings and len(line):
        top = line.loc[line["mean"].idxmax()]
        axis.plot(top[x], top["mean"], "o", ms=9, mfc="none", mec=color, mew=1.4)


def plot_maps(
    maps: Mapping[str, pd.DataFrame], size: tuple[float, float], across: int, unit: str = ""
) -> Figure:
    """Plot maps side by side with one scale of colors.

    Args:
        maps: by the titles of their panels. Axes are shown where rows have names.
        size: inches of a panel.
        across: panels in a row at most.
        unit: what the colors are.
    """
    figure, axes = _new_figure(len(maps), size, across=across)
    values = np.concatenate([each.to_numpy(float).ravel() for each in maps.values()])
    limits = np.nanmin(values), np.nanmax(values)
    for axis, (name, cells) in zip(axes, maps.items(), strict=True):
        named = not isinstance(cells.index, pd.RangeIndex)
        aspect: Any = "auto" if named else "equal"
        image = axis.imshow(cells.to_numpy(float), "cividis", aspect=aspect, clim=limits)
        axis.grid(visible=False)
        axis.set(title=name, xlabel=cells.columns.name or "")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if named:
            axis.set_yticks(range(len(cells)), list(cells.index))
        else:
            axis.set_axis_off()
    figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, label=textwrap.fill(unit, AXIS))
    return figure


def plot_channels(panels: Mapping[str, pd.DataFrame], tops: Sequence[str]) -> Figure:
    """Plot a dot for each channel, [CLS] against patches, on logarithmic axes.

    Args:
        panels: by title, columns cls and patches, and those of `tops`.
        tops: columns that are true for channels to be marked.
    """
    marks = dict(zip(tops, (("#D55E00", "^"), ("#0072B2", "x")), strict=True))
    legend = [_handle(top, *look, "none") for top, look in marks.items()]
    figure, axes = _new_figure(len(panels), (3.2, 2.7), legend)
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.plot(found["patches"], found["cls"], ".", color="0.6", markersize=2.5)
        for top, (color, marker) in marks.items():
            marked = found[found[top]]
            axis.plot(marked["patches"], marked["cls"], marker, color=color, markersize=4.5)
        axis.axline((1, 1), (10, 10), color="0.75", linewidth=0.8, linestyle=":")
        axis.set(xlabel="in patches", ylabel="in [CLS]", title=title)
        _set_log(axis, True, True)
    return figure


def _set_log(axis: Axes, x: bool, y: bool) -> None:
    """Make axes logarithmic, with plain numbers."""
    for scale, own in ((x, axis.xaxis), (y, axis.yaxis)):
        if scale:
            own.axes.set(**{f"{own.axis_name}scale": "log"})
            own.set_major_formatter(StrMethodFormatter("{x:g}"))
            own.set_minor_formatter(NullFormatter())


def _handle(label: str, color: str, marker: str, dash: Dash) -> Line2D:
    """Return the entry of a legend; the space shows labels that start with an underscore."""
    return Line2D([], [], color=color, marker=marker, linestyle=dash, label=f" {label}")


def _new_figure(
    count: int, size: tuple[float, float], legend: Sequence[Line2D] = (), across: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of one size in inches, which share the x axis, and a legend."""
    across = min(across, count)
    down = math.ceil(count / across)
    high = down * size[1] + LEGEND_ROW * math.ceil(len(legend) / 2)
    figure = Figure(figsize=(across * size[0], high), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes:
        axis.tick_params(labelbottom=True)  # also where the panel below is empty
    if legend:
        place: Any = "outside lower center"
        figure.legend(handles=legend, loc=place, ncols=2, frameon=False, handlelength=2.6)
    return figure, list(axes[:count])


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
