"""Summary of an analysis: a table of main numbers, and the differences that intervals support.

A difference is named only where 95 % intervals lie apart, which is stricter than needed, since all
models saw the same images.
"""

from typing import Any, NamedTuple

import pandas as pd

from vitlab.analysis.report.data import ReportData
from vitlab.analysis.report.table import (
    DASH,
    best,
    block_name,
    bounds,
    by_block,
    center,
    layers,
    norm_crossings,
    number,
    points,
)
from vitlab.analysis.results import AnalysisResults

ALIGN, SEGMENT = ("foreground_auroc", "foreground_hit"), "block_miou"
COSINE = "cls_patch_cosine"
RARE = 0.005  # share of patches below which outliers are not worth a sentence
HEADLINE = (  # title, measure, and "last" layer, "best" layer, or "mean" over blocks and heads
    ("[CLS]-patch cosine, output", COSINE, "last"),
    ("patch-patch cosine, output", "patch_patch_cosine", "last"),
    ("diffusion index, output", "diffusion_index", "last"),
    ("foreground AUROC, best", "foreground_auroc", "best"),
    ("foreground AUROC, output", "foreground_auroc", "last"),
    ("high-norm patches", "norm_outliers", "last"),
    ("exact zeros of attention", "attention_zeros", "mean"),
    ("rank of patches, output", "feature_rank", "last"),
    ("mIoU, best", SEGMENT, "best"),
)


class Cell(NamedTuple):
    """A number of the table, its interval, and its layer."""

    text: str
    interval: str = ""
    layer: str = ""


def headline(results: AnalysisResults) -> dict[str, dict[str, Cell]]:
    """Return a cell by title and model, without titles that no model has a number for."""
    data = ReportData(results)
    found = {
        title: {label: _cell(data.rows(measure), how, label) for label in data.styles}
        for title, measure, how in HEADLINE
    }
    return {
        title: cells
        for title, cells in found.items()
        if any(cell.text != DASH for cell in cells.values())
    }


def _cell(rows: pd.DataFrame, how: str, label: str) -> Cell:
    if how == "mean":
        rows = rows[rows["model"] == label].dropna(subset="mean")
        for part in (rows["role"] == "patches", rows["head"].notna()):
            rows = rows[part[rows.index]] if part[rows.index].any() else rows
        return Cell(number(rows["mean"].mean() if len(rows) else None))
    series = layers(rows, label).dropna(subset="mean")
    if series.empty:
        return Cell(DASH)
    row = best(series) if how == "best" else _last(series)
    layer = "" if pd.isna(row.block) and how == "last" else block_name(row.block)
    return Cell(center(row), bounds(row), layer)


def observations(data: ReportData) -> list[str]:
    """Return sentences on the differences that the intervals support."""
    found = [*_across_norms(data), *_depths(data), *_outliers(data)]
    for _, measure, how in HEADLINE:
        if how == "last":
            found += _extremes(data, measure)
    return found


def _last(rows: pd.DataFrame) -> Any:
    return next(rows.iloc[[-1]].itertuples())


def apart(a: Any, b: Any) -> int:
    """Return 1 where the interval of a lies above that of b, -1 below, 0 where they meet."""
    return int(a.low > b.high) - int(a.high < b.low)


def _across_norms(data: ReportData) -> list[str]:
    """Return how the cosine of [CLS] with patches changes across each norm."""
    rows = data.rows(COSINE)
    roles = sorted(set(rows["role"]))
    role = "all" if "all" in roles or not roles else roles[0]
    found = []
    for before, after in norm_crossings(points(rows)):
        one, other = (
            by_block(rows, point, role).dropna(subset="block") for point in (before, after)
        )
        both = one.merge(other, on=["model", "block"], suffixes=("", "_after"))
        below = both["high_after"] < both["low"]
        above = both["low_after"] > both["high"]
        for signs, verb in ((below, "falls"), (above, "rises")):
            parts = []
            for label in data.styles:
                own, sign = both[both["model"] == label], signs[both["model"] == label]
                if 2 * sign.sum() > len(own):
                    a, b = own["mean"].mean(), own["mean_after"].mean()
                    many = f"{sign.sum()} of {len(own)} blocks"
                    parts.append(f"{label} from {a:.2f} to {b:.2f} ({many})")
            if parts:
                found.append(f"Mean [CLS]-patch cosine {verb} across {after}: {'; '.join(parts)}.")
    return found


def _depths(data: ReportData) -> list[str]:
    """Return where the foreground aligns best and where segmentation is best, if they differ."""
    align = next((name for name in ALIGN if len(data.rows(name))), ALIGN[0])
    differ, early = [], []
    for label in data.styles:
        aligned = layers(data.rows(align), label)
        top, segments = best(aligned), best(layers(data.rows(SEGMENT), label))
        if top is None:
            continue
        by_name = {block_name(row.block): row for row in aligned.itertuples()}
        there = by_name.get(block_name(segments.block)) if segments else None
        if there and apart(top, there) > 0:
            differ.append(
                f"{label} aligns best in {block_name(top.block)} ({center(top)}) and segments best "
                f"in {block_name(segments.block)} (there {center(there)})"
            )
        elif apart(top, last := _last(aligned)) > 0:
            early.append(f"{label} {block_name(top.block)} ({center(top)}, last {center(last)})")
    if not differ + early:
        return []
    title = data.measure(align).title
    found = [f"Foreground ({title}): {'; '.join(differ)}."] if differ else []
    if early:
        found.append(f"Foreground aligns best ({title}) before the last layer: {'; '.join(early)}.")
    return found


def _finals(data: ReportData, measure: str) -> dict[str, Any]:
    """Return the last layer of each model, where it has an interval."""
    found = {}
    for label in data.styles:
        rows = layers(data.rows(measure), label).dropna(subset="mean")[-1:]
        for row in rows.dropna(subset=["low", "high"]).itertuples():
            found[label] = row
    return found


def _outliers(data: ReportData) -> list[str]:
    """Return the models that have patches of high norm beyond doubt."""
    parts = [
        f"{label} ({100 * row.mean:.1f} %, {block_name(row.block)})"
        for label, row in _finals(data, "norm_outliers").items()
        if row.low > RARE
    ]
    least = f"Surely more than {100 * RARE:.1f} % of patches are of high norm"
    return [f"{least}: {'; '.join(parts)}."] if parts else []


def _extremes(data: ReportData, measure: str) -> list[str]:
    """Return the models with the largest and smallest number, where no other interval reaches."""
    ranked = sorted(_finals(data, measure).items(), key=lambda each: each[1].mean)
    if len(ranked) < 2:
        return []
    parts = [
        f"{word} for {label} ({center(row)})"
        for word, (label, row) in (("highest", ranked[-1]), ("lowest", ranked[0]))
        if all(other is row or apart(row, other) for _, other in ranked)
    ]
    if len(ranked) == 2 and parts:
        (low, a), (high, b) = ranked
        parts = [f"higher for {high} ({center(b)}) than for {low} ({center(a)})"]
    title = data.measure(measure).title
    title = title[:1].upper() + title[1:]
    return [f"{title} of the last layer is {', '.join(parts)}."] if parts else []
