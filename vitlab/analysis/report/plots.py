"""Plots of a report: lines, maps and channels, in the style of `vitlab.visualization.plots`."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from vitlab.visualization.plots import (
    DASHES,
    REFERENCE_DASH,
    Style,
    handle,
    new_figure,
    plot_dots,
    plot_line,
    settle,
)

AXIS = 30  # letters of a line beside an axis
ACROSS = 3  # panels side by side


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
    legend = [handle(s.label, s.color, s.marker, s.dash if single else "none") for s in own]
    if not single:
        legend += [handle(name, "0.3", "", dash) for name, dash in variants.items()]
    if chance is not None:
        legend.append(handle("chance", "0.45", "", REFERENCE_DASH))
    panels = list(rows.groupby(panel, sort=False)) if panel else [("", rows)]
    figure, axes = new_figure(len(panels), legend, across=ACROSS)
    for axis, (title, part) in zip(axes, panels, strict=True):
        for (label, *kind), line in part.groupby(["model", *filter(None, [variant])], sort=False):
            style = styles[label]
            style = style if single else style._replace(dash=variants[kind[0]])
            heads = line[line["head"].notna()]
            look: Any = {"color": style.color, "alpha": 0.5, "markeredgewidth": 0}
            axis.plot(heads[x], heads["mean"], style.marker, markersize=2.6, **look)
            means = line[line["head"].isna()]
            if len(means):
                plot_line(axis, means, x, style, ring=rings, steps=histogram)
        if chance is not None:
            axis.axhline(chance, color="0.45", linewidth=0.9, linestyle=REFERENCE_DASH)
        settle(axis)
        name = styles[title].label if panel == "model" else title
        axis.set(xlabel=x, ylabel=textwrap.fill(y, AXIS), title=name)
        if x == "block":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        elif x == "point":
            axis.tick_params("x", rotation=35)
        if histogram and rows["mean"].notna().any():
            _set_log(axis, bool(rows[x].min() > 0), True)
    return figure


def plot_maps(
    maps: Mapping[str, pd.DataFrame], height: float, across: int = ACROSS, unit: str = ""
) -> Figure:
    """Plot maps side by side with one scale of colors.

    Args:
        maps: by the titles of their panels. Axes are shown where rows have names.
        height: inches of a panel.
        across: panels in a row at most.
        unit: what the colors are.
    """
    figure, axes = new_figure(len(maps), across=across, height=height)
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


def plot_estimates(rows: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Plot a panel for each title: a dot with its interval for each model.

    Args:
        rows: title, model, mean, low, high.
        styles: by model.
    """
    panels = list(rows.groupby("title", sort=False))
    height = 0.55 + 0.15 * rows["model"].nunique()
    figure, axes = new_figure(len(panels), across=ACROSS, height=height, share=False)
    across = math.ceil(len(panels) / math.ceil(len(panels) / ACROSS))
    for place, (axis, (title, own)) in enumerate(zip(axes, panels, strict=True)):
        plot_dots(axis, own.rename(columns={"model": "label"}), styles)
        axis.set_title(textwrap.fill(title, AXIS))
        if place % across and set(own["model"]) == set(panels[place - place % across][1]["model"]):
            axis.set_yticklabels([""] * len(own))
    return figure


def plot_channels(panels: Mapping[str, pd.DataFrame], tops: Sequence[str]) -> Figure:
    """Plot a dot for each channel, [CLS] against patches, on logarithmic axes.

    Args:
        panels: by title, columns cls and patches, and those of `tops`.
        tops: columns that are true for channels to be marked.
    """
    marks = dict(zip(tops, (("#D55E00", "^"), ("#0072B2", "x")), strict=True))
    legend = [handle(top, *look, "none") for top, look in marks.items()]
    figure, axes = new_figure(len(panels), legend, height=2.6, across=ACROSS)
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
