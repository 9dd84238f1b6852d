"""Figures of the rows of a measure, chosen by what they hold: blocks, points, roles, heads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from vitlab.analysis.report import plots
from vitlab.analysis.report.data import MeasureFigures, ReportData, ReportFigure, line, listed
from vitlab.analysis.report.plots import Curve
from vitlab.analysis.report.style import DASHES, WIDTH
from vitlab.analysis.report.table import (
    READ,
    averaged,
    by_block,
    depth,
    interval,
    layers,
    norm_crossings,
    number,
    pivot,
    points,
    quantity,
)
from vitlab.analysis.results import Measure

FEW = 3  # points of a block that one figure can tell apart by the dashes of its lines
ALL_NORMS = ("cls_patch_cosine", "patch_patch_cosine")  # drawn around each norm, as papers do
CHANCE: dict[str, float | str] = {"foreground_auroc": 0.5, "foreground_hit": "foreground_share"}
QUERIES = {"cls": "[CLS] queries", "patches": "patch queries", "registers": "register queries"}
READ_NOTE = "The output of each block, read like the encoder's output: behind its final norm."


class RowFigures(MeasureFigures):
    """Figures of the rows of a measure."""

    def __init__(self, data: ReportData, measure: Measure):
        super().__init__(data, measure)
        self.rows = data.rows(measure.name)
        self.depth = depth(self.rows)

    def draw(self) -> list[ReportFigure]:
        """Return all figures."""
        blocks = self.rows[self.rows["block"].notna()]
        has_heads = blocks.groupby(["point", "role"])["head"].transform("count") > 0
        heads, rest = blocks[blocks["head"].notna()], blocks[~has_heads]
        found = [
            self.heads(own, *kind) for kind, own in heads.groupby(["point", "role"], sort=False)
        ]
        if len(rest):
            return [*self.over_blocks(rest), *found]
        return found or ([self.intervals()] if len(self.rows) else [])

    def over_blocks(self, rows: pd.DataFrame) -> list[ReportFigure]:
        """Return curves by point and role; overviews where a block has many points."""
        names = list(rows["point"].unique())
        many = len(points(self.rows)) > FEW
        found: list[ReportFigure] = []
        if many:
            roles = list(rows["role"].unique())
            found += self.inside_blocks("all" if "all" in roles else roles[0])
        for point in names[-1:] if many else names:
            roles = list(rows["role"][rows["point"] == point].unique())
            if many and point != READ and len(roles) == 1:
                continue  # shown above
            both = [role for role in roles if role in ("foreground", "background")]
            for group in [*([role] for role in roles if role not in both), *([both] * bool(both))]:
                words = [w for w in (point, " and ".join(group)) if w not in ("all", READ)]
                variants = {role or "all": (point, role) for role in group}
                note = READ_NOTE if point == READ else ""
                found.append(self.variants(variants, [point, *group], listed(*words), note))
        return found

    def inside_blocks(self, role: str) -> list[ReportFigure]:
        """Return curves around norms, the path through a block, and a map of blocks and points."""
        names = points(self.rows)
        whole = self.measure.name in ALL_NORMS
        found = [
            self.variants(
                {name: (name, role) for name in (before, after)},
                ["across", after],
                f": before and after {after}",
            )
            for before, after in norm_crossings(names)[: None if whole else 1]
        ]
        series = {name: by_block(self.rows, name, role) for name in names}
        series = {name: rows[rows["block"].notna()] for name, rows in series.items()}
        found.append(self.path(series))
        return [*found, self.block_map(series, role)] if whole else found

    def variants(
        self, places: Mapping[str, tuple[str, str]], name: Sequence[str], words: str, note: str = ""
    ) -> ReportFigure:
        """Return lines over blocks for each model at each of some points and roles."""
        single = len(places) == 1
        curves, dashes = {}, dict(zip(places, cycle(DASHES), strict=False))
        for label, style in self.data.styles.items():
            for variant, place in places.items():
                rows = by_block(self.rows, *place)
                rows = rows[rows["model"] == label]
                if len(rows):
                    dash = None if single else dashes[variant]
                    curves[label if single else f"{label}, {variant}"] = Curve(style, rows, dash)
        used = dict.fromkeys(curve.style for curve in curves.values())
        legend = [style.handle(None if single else "none") for style in used]
        if not single:
            legend += [Line2D([], [], color="0.3", ls=d, label=v) for v, d in dashes.items()]
        known = CHANCE.get(self.measure.name)
        if isinstance(known, str):
            level = self.data.rows(known)["mean"].mean()
            known = None if math.isnan(level) else level
        caption = f"{note} {averaged(pd.concat([each.rows for each in curves.values()]))}".strip()
        more: dict[str, Any] = {"legend": legend, "depth": self.depth, "chance": known}
        return self.curves(curves, name, words, caption, **more)

    def heads(self, rows: pd.DataFrame, point: str, role: str) -> ReportFigure:
        """Return a dot for each head and a line for their mean.

        As in ViT (arXiv:2010.11929, figure 7) and Raghu et al. (arXiv:2108.08810).
        """
        together = by_block(self.rows, point, role)
        curves, more = {}, {}
        for label, own in self.data.by_model(rows.dropna(subset="mean")).items():
            mean = together[together["model"] == label]
            if mean.empty:
                mean = line(own.groupby("block")["mean"].mean())
            curves[label] = Curve(self.data.styles[label], mean, dots=own, marked=False)
            for head, of_head in own.groupby("head"):
                more[f"{label}, head {head}"] = of_head.assign(low=math.nan, high=math.nan)
        sure = together["low"].notna().any()
        means = averaged(together) if sure else "Each is a mean over images."
        caption = f"A marker is a head; the line is the mean over heads. {means}"
        name, words = ["heads", point, role], listed(point, QUERIES.get(role, role))
        return self.curves(curves, name, words, caption, more=more, depth=self.depth)

    def path(self, series: Mapping[str, pd.DataFrame]) -> ReportFigure:
        """Return the mean over blocks at each point, a dot for each block."""
        dots = pd.concat([rows.assign(block=i) for i, rows in enumerate(series.values())])
        curves = {}
        for label, own in self.data.by_model(dots).items():
            means = own.groupby("block")["mean"].mean().reindex(range(len(series)))
            curves[label] = Curve(self.data.styles[label], line(means), dots=own, marked=False)
        words = " on the way through a block"
        caption = "Line: mean over blocks; dots: the blocks, each a mean over images."
        return self.curves(curves, ["through-a-block"], words, caption, x="", ticks=list(series))

    def block_map(self, series: Mapping[str, pd.DataFrame], role: str) -> ReportFigure:
        """Return a map of each model: blocks across, points down."""
        everything = pd.concat([rows.assign(point=name) for name, rows in series.items()])
        maps, tables = {}, []
        for label, own in self.data.by_model(everything).items():
            cells = own.pivot(index="point", columns="block", values="mean")
            cells = cells.reindex(index=list(series), columns=range(self.depth)).astype(float)
            maps[self.data.styles[label].label] = cells.to_numpy()
            cells.columns = [f"block {block}" for block in cells]
            tables.append(cells.map(number).reset_index().assign(model=label))
        table = pd.concat(tables).set_index("model").reset_index()
        size = (WIDTH, 0.75 + 0.2 * len(series))
        return self.finish(
            plots.plot_maps(maps, size=size, across=3, y_names=list(series)),
            ["map", role],
            " by block and point",
            "A cell is a mean over images; blocks across, points of a block down; one color scale.",
            table,
            wide=len(maps) > 1,
        )

    def intervals(self) -> ReportFigure:
        """Return markers with intervals, a line for each model, point, role and head."""
        rows = self.rows[self.rows["block"].isna()]
        parts = rows[["model", "point", "role"]].copy()
        parts["head"] = ["" if pd.isna(head) else f"head {head}" for head in rows["head"]]
        names = parts.assign(model=[self.data.styles[label].label for label in parts["model"]])
        if names["point"].nunique() == 1:
            names = names.drop(columns="point")
        lines = [
            (", ".join(filter(None, name)), row, self.data.styles[row.model])
            for name, row in zip(names.to_numpy(), rows.itertuples(), strict=True)
        ]
        values = [interval(row) for row in rows.itertuples()]
        figure = plots.plot_intervals(lines, quantity(self.measure))
        table = parts.assign(**{self.measure.title: values})
        return self.finish(figure, ["whole"], "", averaged(rows), table)


def layer_comparison(data: ReportData, align: Measure, segment: Measure) -> ReportFigure:
    """Return alignment and segmentation over blocks, the best layer of each model ringed.

    The comparison of arXiv:2605.23868: shallow layers align better yet segment worse.
    """
    panels = {
        measure.title: {
            label: Curve(style, layers(data.rows(measure.name), label))
            for label, style in data.styles.items()
        }
        for measure in (align, segment)
    }
    blocks = max(depth(data.rows(each.name)) for each in (align, segment))
    figure = plots.plot_curves(
        {quantity(m): [*panels[m.title].values()] for m in (align, segment)},
        [style.handle() for style in data.styles.values()],
        depth=blocks,
        ring_best=True,
    )
    series = {f"{label}, {t}": c.rows for t, own in panels.items() for label, c in own.items()}
    caption = f"Rings: the best layer of each model. {averaged(pd.concat(series.values()))}"
    found = MeasureFigures(data, align).finish(figure, (), "", caption, pivot(series))
    return replace(found, name="layer-against-miou", title="Which depth aligns, which segments")
