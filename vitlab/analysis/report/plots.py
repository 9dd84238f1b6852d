"""Plots of a report: curves by block, intervals, maps, histograms, channels."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from vitlab.analysis.report.style import (
    HEIGHT,
    LABEL_LETTERS,
    WIDTH,
    Dash,
    Style,
    add_legend,
    escape,
    label_axes,
    new_figure,
)
from vitlab.analysis.report.table import best

CHANCE_DASH = (0, (1, 2))
OUTPUT_GAP = 1.2  # blocks between the last block and the output
SPREAD = 0.62  # of a block's width that dots of different models take
MANY = 1000  # dots, above which they become pixels in an SVG


@dataclass(frozen=True)
class Curve:
    """A line of a model over blocks.

    Rows have block, mean, low, high; the output has no block and is drawn apart. Dots are single
    numbers around the line, such as those of heads, with block and mean.
    """

    style: Style
    rows: pd.DataFrame
    dash: Dash | None = None  # the style's by default
    dots: pd.DataFrame | None = None
    marked: bool = True


def plot_curves(
    panels: Mapping[str, Sequence[Curve]],
    legend: Sequence[Line2D],
    *,
    x: str = "block",
    ticks: Sequence[str] = (),
    depth: int = 0,
    chance: float | None = None,
    ring_best: bool = False,
) -> Figure:
    """Plot lines with bands, one panel below the other.

    Args:
        panels: curves by the title of the y axis.
        legend: its entries.
        x: title of the x axis.
        ticks: names along the x axis, instead of numbers.
        depth: number of blocks, where the x axis shows them.
        chance: level of a dotted line.
        ring_best: whether the largest number of each curve gets a ring.
    """
    if chance is not None:
        legend = [*legend, Line2D([], [], color="0.45", lw=0.9, ls=CHANCE_DASH, label="chance")]
    size = (WIDTH, HEIGHT if len(panels) == 1 else 0.875 * HEIGHT)
    figure, axes = new_figure(len(panels), size, len(legend), across=1, sharey=False)
    out, has_output = depth - 1 + OUTPUT_GAP, False
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for place, curve in enumerate(curves):
            has_output |= bool(curve.rows["block"].isna().any())
            _draw_curve(panel, curve, out, SPREAD * ((place + 0.5) / len(curves) - 0.5))
            if ring_best and (top := best(curve.rows)) is not None:
                at = out if pd.isna(top.block) else top.block
                panel.plot([at], [top.mean], "o", ms=9, mfc="none", mec=curve.style.color, mew=1.4)
        if chance is not None:
            panel.axhline(chance, color="0.45", linewidth=0.9, linestyle=CHANCE_DASH)
        label_axes(panel, "", title)
    if ticks:
        axes[-1].set_xticks(range(len(ticks)), ticks, rotation=35, ha="right")
    elif depth:
        blocks = list(range(0, depth, max(1, round(depth / 12))))
        end = [out] if has_output else []
        axes[-1].set_xticks([*blocks, *end], [*map(str, blocks), *("out" for _ in end)])
        axes[-1].set_xlim(-0.5, out + 0.5 if has_output else depth - 0.5)
        for position in end:
            axes[-1].axvline(position - OUTPUT_GAP / 2, color="0.75", linewidth=0.7, linestyle=":")
    axes[-1].set_xlabel(x)
    add_legend(figure, legend)
    return figure


def _draw_curve(panel: Axes, curve: Curve, out: float, shift: float) -> None:
    color, marker = curve.style.color, curve.style.marker
    if curve.dots is not None:
        x, y = curve.dots["block"].to_numpy(float) + shift, curve.dots["mean"]
        (dots,) = panel.plot(x, y, marker, color=color, markersize=3.0, alpha=0.5, mew=0)
        dots.set_rasterized(len(y) > MANY)
    blocks = curve.rows[curve.rows["block"].notna()]
    x = blocks["block"].to_numpy(float)
    dash = curve.style.dash if curve.dash is None else curve.dash
    panel.plot(x, blocks["mean"], color=color, ls=dash, marker=marker if curve.marked else "")
    panel.fill_between(x, blocks["low"], blocks["high"], color=color, alpha=0.18, linewidth=0)
    for row in curve.rows[curve.rows["block"].isna()].itertuples():
        panel.plot([out], [row.mean], color=color, marker=marker, ls="none")
        panel.plot([out, out], [row.low, row.high], color=color, linewidth=1.0)


def plot_intervals(lines: Sequence[tuple[str, Any, Style]], x: str) -> Figure:
    """Plot a marker with its interval for each line: name, row, style."""
    figure, (panel,) = new_figure(1, (WIDTH, 0.75 + 0.28 * len(lines)))
    for y, (_, row, style) in enumerate(lines):
        panel.plot([row.low, row.high], [y, y], color=style.color, linewidth=1.2)
        panel.plot([row.mean], [y], color=style.color, marker=style.marker, markersize=4.5)
    names = [textwrap.fill(escape(name), LABEL_LETTERS) for name, _, _ in lines]
    panel.set_yticks(range(len(lines)), names)
    panel.set_ylim(len(lines) - 0.5, -0.5)
    label_axes(panel, x, "")
    return figure


def plot_maps(
    maps: Mapping[str, np.ndarray],
    *,
    size: tuple[float, float],
    across: int,
    y_names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Plot maps side by side with one scale of colors.

    Args:
        maps: 2-d arrays by the titles of their panels.
        size: inches of a panel.
        across: panels in a row at most.
        y_names: of rows; the columns are blocks then. Without, the axes are not shown.
        title: of the figure.
    """
    figure, panels = new_figure(len(maps), size, across=across)
    values = np.concatenate([each.ravel() for each in maps.values()])
    low, high = (0.0, 1.0) if np.isnan(values).all() else (np.nanmin(values), np.nanmax(values))
    limit, colors, down = max(abs(low), abs(high)) or 1.0, "cividis", math.ceil(len(maps) / across)
    if y_names:
        low, high, colors = (-limit, limit, "PuOr_r") if low < 0 else (0.0, limit, colors)
    for panel, (name, grid) in zip(panels, maps.items(), strict=True):
        aspect: Any = "auto" if y_names else "equal"
        image = panel.imshow(grid, colors, vmin=low, vmax=high, aspect=aspect)
        image.set_interpolation("nearest")
        panel.grid(visible=False)
        if y_names:
            panel.set_yticks(range(len(y_names)), y_names)
            panel.set_xticks(range(0, grid.shape[1], max(1, round(grid.shape[1] / 12))))
        else:
            panel.set_axis_off()
        label_axes(panel, "block" if y_names else "", "", name)
    slim = 20 if y_names else 12 * down
    figure.colorbar(image, ax=panels, pad=0.02, fraction=0.05, aspect=slim).ax.tick_params(
        labelsize=7
    )
    if title:
        width, height = figure.get_size_inches()
        figure.set_size_inches(max(2.6, width + 0.9), height + 0.4)
        figure.suptitle(escape(title), fontsize=8.5)
    return figure


def plot_histograms(
    panels: Mapping[str, Sequence[tuple[Any, str, Dash]]], legend: Sequence[Line2D], x: str
) -> Figure:
    """Plot outlines of histograms as shares, on logarithmic axes where they reach far.

    A panel, by its title, has array, color and dash of each outline.
    """
    size = (WIDTH, HEIGHT) if "" in panels else (3.2, 2.1)
    figure, axes = new_figure(len(panels), size, len(legend))
    ends = []
    for panel, (title, outlines) in zip(axes, panels.items(), strict=True):
        for array, color, dash in outlines:
            heights = shares(array.values)
            panel.stairs(heights, array.edges, color=color, linestyle=dash, linewidth=1.2)
            if np.isfinite(heights).any():
                panel.set_yscale("log")
            ends += [array.edges[0], array.edges[-1]]
        label_axes(panel, x, "share", title)
    if min(ends) > 0 and max(ends) > 10 * min(ends):
        for panel in axes:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
    add_legend(figure, legend)
    return figure


def plot_channels(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], marks: Sequence[tuple[str, str, str]]
) -> Figure:
    """Plot a dot for each channel, [CLS] against patches, on logarithmic axes.

    A panel, by its title, has the magnitudes in [CLS] and in patches; marks are label, color and
    marker of the largest ones of both.
    """
    figure, axes = new_figure(len(panels), (3.2, 2.7), 2)
    for panel, (title, both) in zip(axes, panels.items(), strict=True):
        cls, patches = both
        if all(np.isfinite(each).any() for each in both):
            panel.set(xscale="log", yscale="log")
        panel.plot(patches, cls, ".", color="0.6", markersize=2.5, rasterized=len(cls) > MANY)
        for values, (_, color, marker) in zip(both, marks, strict=True):
            top = largest(values)
            panel.plot(patches[top], cls[top], marker, color=color, ls="none", markersize=4.5)
        panel.axline((1, 1), (10, 10), color="0.75", linewidth=0.8, linestyle=":")
        label_axes(panel, "in patches", "in [CLS]", title)
        panel.tick_params(labelsize=7)
    entries = [Line2D([], [], color=c, marker=m, ls="none", label=label) for label, c, m in marks]
    add_legend(figure, entries)
    return figure


def largest(values: np.ndarray, count: int = 10) -> list[int]:
    """Return the places of the largest values, the first of equals first."""
    order = np.argsort(-values, kind="stable")
    return [int(i) for i in order if np.isfinite(values[i])][:count]


def shares(values: np.ndarray) -> np.ndarray:
    """Return counts over their sum; NaN for empty bins, which have no logarithm."""
    positive = values > 0
    total = np.where(positive, values, 0).sum()
    return np.where(positive, values, np.nan) / (total or 1.0)
