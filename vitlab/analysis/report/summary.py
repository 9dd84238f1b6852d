"""Summary of an analysis: a table of main numbers, and the differences that intervals support.

A difference is named only where 95 % intervals lie apart, which is stricter than needed, since all
models saw the same images.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from vitlab.analysis.results import AnalysisResults

DASH = "\N{EN DASH}"  # for a missing number
ALIGN, SEGMENT = "foreground_auroc", "block_miou"
COSINE = "cls_patch_cosine"
HEADLINE = (  # title, measure, and "last" block, "best" block, or "mean" over blocks
    ("[CLS]-patch cosine, output", COSINE, "last"),
    ("patch-patch cosine, output", "patch_patch_cosine", "last"),
    ("diffusion index, output", "diffusion_index", "last"),
    ("foreground AUROC, best", ALIGN, "best"),
    ("foreground AUROC, output", ALIGN, "last"),
    ("high-norm patches", "norm_outliers", "last"),
    ("exact zeros of attention", "attention_zeros", "mean"),
    ("rank of patches, output", "feature_rank", "last"),
    ("mIoU, best", SEGMENT, "best"),
)


def number(value: float) -> str:
    """Return three digits of a number; a dash for NaN and infinity."""
    if not math.isfinite(value):
        return DASH
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def interval(mean: float, low: float, high: float) -> str:
    """Return "mean [low, high]", two digits of half the interval; the mean alone without one."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    half = (high - low) / 2
    digits = min(6, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def drawn_rows(results: AnalysisResults) -> pd.DataFrame:
    """Return the rows that are drawn.

    Numbers that are not finite are left out, and those without a block of measures by block: the
    encoder's output is the last block's, read behind the final norm.
    """
    rows = results.rows.replace([math.inf, -math.inf], math.nan).dropna(subset="mean")
    return rows[rows["block"].notna() | rows.groupby("measure")["block"].transform("count").eq(0)]


def drawn_arrays(results: AnalysisResults) -> pd.DataFrame:
    """Return the arrays that hold finite numbers, NaN for others, with values of NumPy."""
    values = [np.array(each, dtype=float) for each in results.arrays["values"]]
    values = [np.where(np.isfinite(each), each, math.nan) for each in values]
    arrays = results.arrays.assign(values=pd.Series(values, results.arrays.index, dtype=object))
    return arrays.loc[[bool(np.isfinite(each).any()) for each in values]]


def by_depth(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return a number for each model and block: at the last point, of all or of patches."""
    rows = rows[(rows["measure"] == measure) & rows["head"].isna()]
    if rows.empty:
        return rows
    rows = rows[rows["point"] == rows["point"].iloc[-1]]
    roles = list(rows["role"])
    role = next((each for each in ("all", "", "patches") if each in roles), roles[0])
    return rows[rows["role"] == role].sort_values("block", kind="stable")


def headline(results: AnalysisResults) -> pd.DataFrame:
    """Return the main numbers as text: a line for each model, columns that some model has."""
    rows = drawn_rows(results)
    labels = [model.label for model in results.models]
    found = pd.DataFrame(index=pd.Index(labels, name="model"), dtype=str)
    for title, measure, how in HEADLINE:
        cells = {}
        for label, own in by_depth(rows, measure).groupby("model"):
            row = own.loc[own["mean"].idxmax()] if how == "best" else own.iloc[-1]
            cells[label] = interval(row["mean"], row["low"], row["high"])
            if how == "best":
                cells[label] += f" (block {row['block']})"
            elif how == "mean":
                cells[label] = number(own["mean"].mean())
        if cells:
            found[title] = pd.Series(cells, dtype=str)
    return found.fillna(DASH)


def observations(results: AnalysisResults) -> list[str]:
    """Return sentences on the differences that the intervals support."""
    rows = drawn_rows(results)
    titles = {measure.name: measure.title for measure in results.measures}
    found = [*_norms(rows), *_depths(rows, titles)]
    for _, measure, how in HEADLINE:
        if how == "last":
            found += _extremes(by_depth(rows, measure), titles.get(measure, measure))
    return found


def _norms(rows: pd.DataFrame) -> Iterator[str]:
    """Yield how the cosine of [CLS] with patches changes across each norm, in most blocks."""
    rows = rows[(rows["measure"] == COSINE) & (rows["role"] == "all")]
    at = dict(list(rows.groupby("point", sort=False)))
    for before, after in pairwise(at):
        if "norm" not in after:
            continue
        both = at[before].merge(at[after], on=["model", "block"], suffixes=("", "_after"))
        blocks = both.groupby("model").size()
        for verb, sure in (
            ("falls", both["high_after"] < both["low"]),
            ("rises", both["low_after"] > both["high"]),
        ):
            means = both.groupby("model", sort=False)[["mean", "mean_after"]].mean()
            parts = [
                f"{label} from {means['mean'][label]:.2f} to {means['mean_after'][label]:.2f} "
                f"({count} of {blocks[label]} blocks)"
                for label, count in both[sure].groupby("model", sort=False).size().items()
                if 2 * count > blocks[label]
            ]
            if parts:
                yield f"Mean [CLS]-patch cosine {verb} across {after}: {'; '.join(parts)}."


def _depths(rows: pd.DataFrame, titles: dict[str, str]) -> Iterator[str]:
    """Yield where the foreground aligns best, if not where segmentation is best, or at the end."""
    segments = by_depth(rows, SEGMENT)
    for label, own in by_depth(rows, ALIGN).groupby("model", sort=False):
        best = own.loc[own["mean"].idxmax()]
        other, what = own.iloc[-1], "the last block"
        segmented = segments[segments["model"] == label]
        if len(segmented):
            block = segmented.loc[segmented["mean"].idxmax(), "block"]
            what = f"block {block}, which segments best"
            there = own[own["block"] == block]
            other = there.iloc[0] if len(there) else best
        if best["low"] > other["high"]:
            yield (
                f"Foreground ({titles[ALIGN]}): {label} aligns best in block "
                f"{best['block']} ({number(best['mean'])}), better than in {what} "
                f"({number(other['mean'])})."
            )


def _extremes(rows: pd.DataFrame, title: str) -> Iterator[str]:
    """Yield the models with the largest and smallest number, where no other interval reaches."""
    last = rows.groupby("model").tail(1).dropna(subset=["low", "high"]).sort_values("mean")
    if len(last) > 1:
        low, *_, high = last.to_dict("records")
        parts = []
        if high["low"] > last["high"][:-1].max():
            parts.append(f"highest for {high['model']} ({number(high['mean'])})")
        if low["high"] < last["low"][1:].min():
            parts.append(f"lowest for {low['model']} ({number(low['mean'])})")
        if parts:
            yield f"{title[:1].upper()}{title[1:]} of the last block is {', '.join(parts)}."
