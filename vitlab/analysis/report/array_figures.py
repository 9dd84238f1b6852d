"""Figures of the arrays of a measure: histograms, maps over the grid, channels, other values."""

import math
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from vitlab.analysis.report import plots
from vitlab.analysis.report.data import MeasureFigures, ReportData, ReportFigure, line, listed
from vitlab.analysis.report.plots import Curve, largest, shares
from vitlab.analysis.report.table import block_name, number, quantity
from vitlab.analysis.results import Measure

CHANNEL_POINT = "norm1"  # drawn where it was measured: roles part there
LAYERS = 4  # of a model in a figure of histograms
LIGHTEST = 0.12  # of the color map: lighter yellow is lost on white
VALUES = 50  # rows of a table of values
MARKS = (("10 largest of [CLS]", "#D55E00", "^"), ("10 largest of patches", "#0072B2", "x"))


class ArrayFigures(MeasureFigures):
    """Figures of the arrays of a measure."""

    def __init__(self, data: ReportData, measure: Measure):
        super().__init__(data, measure)
        arrays = data.arrays(measure.name).sort_values("block", kind="stable")
        kinds = np.array([_kind(array) for array in arrays.itertuples()], dtype=object)
        self.histograms = arrays[(kinds == "histogram") & arrays["head"].isna()]
        self.grids = arrays[kinds == "grid"]
        self.channels, self.values = arrays[kinds == "channel"], arrays[kinds == "values"]

    def draw(self) -> list[ReportFigure]:
        """Return all figures."""
        found = self.all_histograms() if len(self.histograms) else []
        for (_, *kind), own in self.grids.groupby(["model", "point", "role"], sort=False):
            found.append(self.maps(own, *kind))
        values = self.values
        if {"cls", "patches"} <= set(self.channels["role"]):
            found.append(self.cls_against_patches())
        else:
            after = self.channels[self.channels["point"] == CHANNEL_POINT]
            values = pd.concat([after if len(after) else self.channels, values])
        kinds = values.groupby(["point", "role"], sort=False)
        return found + [self.sorted_values(own, *kind) for kind, own in kinds]

    def all_histograms(self) -> list[ReportFigure]:
        """Return the last layer of all models, and some layers of each, the deepest darkest."""
        shades = matplotlib.colormaps["cividis_r"]
        last, handles, all_rows = [], {}, []
        panels: dict[str, list] = {}
        for label, own in self.data.by_model(self.histograms).items():
            style = self.data.styles[label]
            arrays = list(own.drop_duplicates("block", keep="last").itertuples())
            last.append((arrays[-1], style.color, style.dash))
            count = min(LAYERS, len(arrays))
            for place in range(count):
                array = arrays[round(place * (len(arrays) - 1) / max(1, count - 1))]
                part = place / max(1, count - 1)
                color = matplotlib.colors.to_hex(shades(LIGHTEST + (1 - LIGHTEST) * part))
                dash: Any = "-" if part == 1 else (0, (place + 1.0, 0.8))
                panels.setdefault(style.label, []).append((array, color, dash))
                name = block_name(array.block)
                handles[name] = Line2D([], [], color=color, ls=dash, label=name)
            all_rows.append(_bins(arrays))
        roles = set(self.histograms["role"])
        counted = (roles.pop() or "tokens") if len(roles) == 1 else "tokens"
        caption = f"Share of all {counted} of all images in each bin, logarithmic; no band."
        legend = [self.data.styles[array.model].handle(marker="") for array, _, _ in last]
        x = quantity(self.measure)
        figure = plots.plot_histograms({"": last}, legend, x)
        table = _bins([array for array, _, _ in last])
        found = [self.finish(figure, ["last-layer"], ": last layer measured", caption, table)]
        if len(handles) > 1:
            figure = plots.plot_histograms(panels, list(handles.values()), x)
            table = pd.concat(all_rows)
            names, wide = ["over-depth"], len(panels) > 1
            found.append(self.finish(figure, names, " over depth", caption, table, wide=wide))
        return found

    def maps(self, arrays: pd.DataFrame, point: str, role: str) -> ReportFigure:
        """Return the maps of a model, a panel for each block, the heads averaged."""
        label = arrays["model"].iloc[0]
        maps = {
            block_name(block): np.mean([*own["values"]], axis=0)
            for block, own in arrays.groupby("block", dropna=False)
        }
        heads = arrays["head"].nunique()
        over = f"mean over {heads} heads and all images" if heads > 1 else "mean over images"
        style, words = self.data.styles[label], ", ".join(part for part in (point, role) if part)
        title = f"{quantity(self.measure)}: {style.label}"
        lines = [(n, *map(number, (g.min(), g.mean(), g.max()))) for n, g in maps.items()]
        return self.finish(
            plots.plot_maps(maps, size=(1.2, 1.35), across=6, title=title),
            ["map", point, role, str(list(self.data.styles).index(label) + 1)],
            f"{f' ({words})' if words else ''}: {label}",
            f"A panel is a block, a cell a patch; {over}. One color scale for all blocks.",
            pd.DataFrame(lines, columns=["layer", "least", "mean", "most"]),
            wide=len(maps) > 3,
        )

    def cls_against_patches(self) -> ReportFigure:
        """Return a dot for each channel: its magnitude in patches and in [CLS], deepest block."""
        panels, told, lines = {}, [], []
        for label, own in self.data.by_model(self.channels).items():
            pairs = own[own["role"].isin(["cls", "patches"])]
            pairs = pairs.pivot_table(
                index=["block", "point"], columns="role", values="values", aggfunc="last",
                dropna=False, sort=False,
            ).reindex(columns=["cls", "patches"]).dropna().reset_index()  # fmt: skip
            after = pairs[pairs["point"] == CHANNEL_POINT]
            for pair in (after if len(after) else pairs)[-1:].itertuples():
                cls, patches = (np.where(v > 0, v, math.nan) for v in (pair.cls, pair.patches))
                panels[self.data.styles[label].label] = cls, patches
                tops = largest(cls), largest(patches)
                where = ", ".join(filter(None, (block_name(pair.block), pair.point)))
                told.append(f"{label} ({where}): {len({*tops[0]} & {*tops[1]})} of {len(tops[0])}")
                for i in sorted({*tops[0], *tops[1]}):
                    lines.append((label, str(i), number(cls[i]), number(patches[i])))
        return self.finish(
            plots.plot_channels(panels, MARKS),
            ["cls-against-patches"],
            ": [CLS] against patches",
            "A dot is a channel, mean over images; dotted line: equal. How many of the largest "
            f"channels they share: {'; '.join(told)}.",
            pd.DataFrame(lines, columns=["model", "channel", "in [CLS]", "in patches"]),
            wide=len(panels) > 1,
        )

    def sorted_values(self, arrays: pd.DataFrame, point: str, role: str) -> ReportFigure:
        """Return the values of the deepest block, a line for each model; channels largest first."""
        axis = arrays["axes"].iloc[0][0]
        order = "largest first" if axis == "channel" else "in order"
        curves = {}
        for label, own in self.data.by_model(arrays).items():
            (deepest,) = own[-1:].itertuples()
            values = pd.Series(deepest.values)
            if axis == "channel":
                values = values.dropna().sort_values(ascending=False, ignore_index=True)
            name, style = f"{label}, {block_name(deepest.block)}", self.data.styles[label]
            curves[name] = Curve(style, line(values), marked=False)
        most = max(len(curve.rows) for curve in curves.values())
        legend = [curve.style.handle(marker="") for curve in curves.values()]
        caption = f"Values of the deepest layer, {order}. "
        caption += f"The table has the first {min(most, VALUES)} of {most}."
        names, words = ["by", axis, point, role], listed(point, role)
        figure = self.curves(curves, names, words, caption, legend=legend, x=f"{axis}, {order}")
        return replace(figure, table=figure.table.head(VALUES))


def _kind(array: Any) -> str:
    """Return how an array is drawn."""
    if len(array.axes) != 1:
        return "grid" if len(array.axes) == 2 else ""
    if len(array.edges) == len(array.values) + 1:
        return "histogram"
    return "channel" if array.axes == ["channel"] else "values"


def _bins(arrays: list) -> pd.DataFrame:
    """Return the filled bins of histograms as text."""
    lines = [
        (array.model, block_name(array.block), *map(number, (*array.edges[i : i + 2], share)))
        for array in arrays
        for i, share in enumerate(shares(array.values))
        if share > 0
    ]
    return pd.DataFrame(lines, columns=["model", "layer", "from", "to", "share"])
