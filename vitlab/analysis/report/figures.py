"""Figures of a measure, chosen by what its rows and arrays hold: blocks, points, roles, heads."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vitlab.analysis.report.plots import plot_channels, plot_lines, plot_maps
from vitlab.analysis.report.summary import ALIGN, DASH, SEGMENT, by_depth, interval, number
from vitlab.analysis.results import Measure
from vitlab.visualization.plots import Style, render

READ = "read"  # the point where a block's output is read like the encoder's
READ_NOTE = "The output of each block, read like the encoder's output: behind its final norm."
FEW = 3  # points inside a block that have a figure each
CHANCE: dict[str, float | str] = {"foreground_auroc": 0.5, "foreground_hit": "foreground_share"}
QUERIES = {"cls": "[CLS] queries", "patches": "patch queries", "registers": "register queries"}
CHANNEL_POINT = "norm1"  # where channels are drawn, if they were measured there: roles part there
TOPS = ("10 largest of [CLS]", "10 largest of patches")
LAYERS = 4  # of a model in a figure of histograms
LINES = 100  # of a table


class ReportFigure(NamedTuple):
    """A figure of the report.

    Attributes:
        name: of its files.
        title: above it.
        caption: below it.
        files: content of each by its ending.
        table: its numbers as text.
        wide: whether it is as wide as the page.
    """

    name: str
    title: str
    caption: str
    files: dict[str, bytes]
    table: pd.DataFrame
    wide: bool


class MeasureFigures:
    """Figures of one measure.

    Args:
        measure: its definition.
        rows, arrays: of all measures, see `drawn_rows` and `drawn_arrays`.
        styles: by model.
    """

    def __init__(
        self,
        measure: Measure,
        rows: pd.DataFrame,
        arrays: pd.DataFrame,
        styles: Mapping[str, Style],
    ):
        self.measure, self.all_rows, self.styles = measure, rows, styles
        self.rows = rows[rows["measure"] == measure.name]
        arrays = arrays[arrays["measure"] == measure.name]
        self.arrays = arrays.sort_values("block", kind="stable")
        self.y = f"{measure.title} ({measure.unit})" if measure.unit else measure.title

    def draw(self) -> Iterator[ReportFigure]:
        """Yield all figures."""
        rows = self.rows[self.rows["block"].notna()]
        has_heads = rows.groupby(["point", "role"])["head"].transform("count") > 0
        yield from self.by_point(rows[~has_heads])
        for (point, role), own in rows[has_heads].groupby(["point", "role"], sort=False):
            note = "A marker is a head; the line is the mean over heads."
            yield self.lines(own, joined("heads", point, QUERIES.get(role, role)), note)
        whole = self.rows[self.rows["block"].isna()]
        if len(whole):
            places = zip(whole["point"], whole["role"], map(head_name, whole["head"]), strict=True)
            part = [joined(*place) or "all" for place in places]
            yield self.lines(whole.assign(part=part, head=pd.NA), x="part")
        axes, binned = self.arrays["axes"].map(len), self.arrays["edges"].map(len) > 0
        if binned.any():
            yield from self.histograms(self.arrays[binned])
        grids = self.arrays[axes == 2].groupby(["model", "point", "role"], sort=False)
        for (label, point, role), own in grids:
            yield self.grid(own, label, joined(point, role))
        yield from self.lists(self.arrays[(axes == 1) & ~binned])

    def by_point(self, rows: pd.DataFrame) -> Iterator[ReportFigure]:
        """Yield lines for each point; overviews and the last point where a block has many."""
        aligned = by_depth(self.all_rows, ALIGN)
        if self.measure.name == SEGMENT and len(aligned):
            # the comparison of arXiv:2605.23868: shallow layers align better yet segment worse
            both = pd.concat([aligned, by_depth(self.all_rows, SEGMENT)])
            words, note = "which depth aligns, which segments", "Rings: the best of each model."
            options = {"variant": "measure", "panel": "measure", "rings": True, "y": ""}
            yield self.lines(both, words, note, **options)
            return
        points = list(rows["point"].unique())
        inside = [point for point in points if point != READ]
        if len(inside) > FEW:
            role = "all" if (rows["role"] == "all").any() else rows["role"].iloc[0]
            yield from self.inside_blocks(rows[rows["role"] == role], inside)
            points = points[-1:]
        for point in points:
            own = rows[rows["point"] == point]
            roles = own["role"].unique()
            parts = [point, *roles] if len(roles) == 1 else [point]
            parts = [part for part in parts if part not in (READ, "all")]
            note = READ_NOTE if point == READ else ""
            yield self.lines(own, joined(*parts), note, variant="role")

    def inside_blocks(self, rows: pd.DataFrame, points: list[str]) -> Iterator[ReportFigure]:
        """Yield lines around norms, the path through a block, and a map of blocks and points."""
        rows = rows[rows["point"].isin(points)]
        for before, after in pairwise(points):
            if "norm" in after:
                words, own = f"before and after {after}", rows["point"].isin([before, after])
                yield self.lines(rows[own], words, variant="point")
        means = rows.groupby(["model", "point"], sort=False)["mean"].mean().reset_index()
        dots = rows.assign(head=rows["block"]).drop(columns="images")
        note = "Line: mean over blocks; dots: the blocks, each a mean over images."
        yield self.lines(pd.concat([dots, means]), "on the way through a block", note, x="point")
        blocks = pd.Index(sorted(set(rows["block"])), name="block")
        maps = {
            self.styles[label].label: own.pivot(index="point", columns="block", values="mean")
            .reindex(index=points, columns=blocks)
            for label, own in rows.groupby("model", sort=False)
        }  # fmt: skip
        figure = plot_maps(maps, 0.6 + 0.16 * len(points), unit=self.y)
        note = "A cell is a mean over images; blocks across, points of a block down."
        table = numbers(
            rows.assign(layer=[f"block {block}" for block in rows["block"]]), "point", "layer"
        )
        yield self.finish(figure, "by block and point", note, table, wide=len(maps) > 1)

    def lines(
        self, rows: pd.DataFrame, words: str = "", note: str = "", **options: Any
    ) -> ReportFigure:
        """Return a figure of lines, see `plot_lines`."""
        absent = [each for each in ("head", "low", "high") if each not in rows]
        rows = rows.assign(**dict.fromkeys(absent, math.nan))
        chance = CHANCE.get(self.measure.name)
        if isinstance(chance, str):
            level = self.all_rows.loc[self.all_rows["measure"] == chance, "mean"].mean()
            chance = None if math.isnan(level) else level
        figure = plot_lines(rows, self.styles, **{"y": self.y, "chance": chance, **options})
        table = numbers(rows, options.get("x", "block"), options.get("variant", ""))
        if "images" in rows:
            least, most = rows["images"].min(), rows["images"].max()
            many = f"{least}" if least == most else f"{least} to {most}"
            band = "band: 95 % interval" if rows["low"].notna().any() else "no interval"
            note = f"{note} Mean over {many} images; {band}.".strip()
        return self.finish(figure, words, note, table, wide="panel" in options)

    def histograms(self, arrays: pd.DataFrame) -> Iterator[ReportFigure]:
        """Yield the last layer of all models, and some layers of each."""
        tables = []
        for label, own in arrays.groupby("model", sort=False):
            own = own.drop_duplicates("block", keep="last")
            chosen = np.linspace(0, len(own) - 1, LAYERS).round().astype(int)
            for place in sorted(set(chosen.tolist())):
                array = own.iloc[place]
                counts, edges = array["values"], np.array(array["edges"])
                shares = np.where(counts > 0, counts, math.nan) / (np.nansum(counts) or 1)
                bins = {self.y: ((edges[1:] + edges[:-1]) / 2).round(6), "mean": shares}
                layer, last = f"block {array['block']}", place == len(own) - 1
                tables.append(pd.DataFrame(bins).assign(model=label, layer=layer, last=last))
        rows = pd.concat(tables)
        note = "Share of all tokens of all images in each bin, logarithmic."
        more: dict[str, Any] = {"x": self.y, "y": "share", "histogram": True}
        yield self.lines(rows[rows["last"]], "last layer measured", note, **more)
        if not rows["last"].all():
            yield self.lines(rows, "over depth", note, variant="layer", panel="model", **more)

    def grid(self, arrays: pd.DataFrame, label: str, words: str) -> ReportFigure:
        """Return the maps of a model, a panel for each block, the heads averaged."""
        maps = {
            f"block {block}": pd.DataFrame(np.mean([*own["values"]], axis=0))
            for block, own in arrays.groupby("block", dropna=False)
        }
        figure = plot_maps(maps, 1.25, across=6, unit=self.y)
        cells = {block: each.stack().agg(["min", "mean", "max"]) for block, each in maps.items()}
        table = pd.DataFrame(cells).T.map(number).rename_axis("layer").reset_index()
        note = "A panel is a block, a cell a patch; mean over heads and images."
        words = joined(words, f"encoder {[*self.styles].index(label) + 1}, {label}")
        return self.finish(figure, words, note, table, wide=len(maps) > 3)

    def lists(self, arrays: pd.DataFrame) -> Iterator[ReportFigure]:
        """Yield figures of the arrays of one axis, of the deepest block of each model."""
        inside = arrays[arrays["point"] == CHANNEL_POINT]
        arrays = inside if len(inside) else arrays
        if self.measure.name == "channel_magnitude" and len(arrays):
            yield self.cls_against_patches(arrays)
            return
        for (point, role), some in arrays.groupby(["point", "role"], sort=False):
            axis, tables = some["axes"].iloc[0][0], []
            order = "largest first" if axis == "channel" else "in order"
            for label, own in some.groupby("model", sort=False):
                values = pd.Series(own["values"].iloc[-1])
                if axis == "channel":
                    values = values.dropna().sort_values(ascending=False, ignore_index=True)
                tables.append(pd.DataFrame({axis: values.index, "mean": values, "model": label}))
            note = f"Values of the deepest block, {order}."
            yield self.lines(pd.concat(tables), joined(f"by {axis}", point, role), note, x=axis)

    def cls_against_patches(self, arrays: pd.DataFrame) -> ReportFigure:
        """Return a dot for each channel: its magnitude in patches and in [CLS]."""
        panels, tables = {}, []
        for label, own in arrays.groupby("model", sort=False):
            last = {array.role: array.values for array in own.itertuples()}
            found = pd.DataFrame({role: last[role] for role in ("cls", "patches")})
            found = found.where(found > 0)
            for role, top in zip(("cls", "patches"), TOPS, strict=True):
                found[top] = found[role].rank(ascending=False, method="first") <= 10
            panels[self.styles[label].label] = found
            tops = found.loc[found[[*TOPS]].any(axis=1), ["cls", "patches"]].map(number)
            tables.append(tops.rename_axis("channel").reset_index().assign(model=label))
        figure, table = plot_channels(panels, TOPS), pd.concat(tables)
        note = "A dot is a channel of the deepest block, mean over images; dotted line: equal."
        return self.finish(figure, "[CLS] against patches", note, table, wide=len(panels) > 1)

    def finish(
        self, figure: Figure, words: str, caption: str, table: pd.DataFrame, wide: bool
    ) -> ReportFigure:
        """Return a figure with its files; `words` follow the measure's name and title."""
        title = f"{self.measure.title}: {words}" if words else self.measure.title
        if len(table) > LINES:
            caption = f"{caption} The table has the first {LINES} of {len(table)} lines."
        name = slug(f"{self.measure.name} {words}")
        return ReportFigure(name, title, caption, render(figure), table.head(LINES), wide)


def numbers(rows: pd.DataFrame, x: str, variant: str) -> pd.DataFrame:
    """Return the numbers of lines as text: a row for each x, a column for each line and head."""
    rows = rows if x == "block" else rows[rows["head"].isna()]
    variants = rows[variant] if variant else [""] * len(rows)
    rows = rows.assign(
        line=list(map(joined, rows["model"], variants, map(head_name, rows["head"]))),
        text=list(map(interval, rows["mean"], rows["low"], rows["high"])),
    )
    table = rows.pivot_table(index=x, columns="line", values="text", aggfunc="first", sort=False)
    return table.fillna(DASH).rename_axis(columns=None).reset_index()


def head_name(head: Any) -> str:
    """Return "head 3", or nothing for all heads together."""
    return "" if pd.isna(head) else f"head {head}"


def joined(*parts: str) -> str:
    """Return the parts that are not empty, with commas."""
    return ", ".join(filter(None, parts))


def slug(text: str) -> str:
    """Return the name of a file or place: the letters and digits of a text."""
    return re.sub("[^a-z0-9]+", "-", text.lower())[:100].strip("-") or "figure"
