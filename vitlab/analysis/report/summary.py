"""The main numbers of an analysis, as numbers and as a table of text."""

import math

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
    ("attention weights exactly 0, mean of blocks", "attention_zeros", "mean"),
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


def estimates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main numbers: title, how it was chosen, model, block, mean, low, high."""
    found = []
    for title, measure, how in HEADLINE:
        for label, own in by_depth(rows, measure).groupby("model", sort=False):
            row = own.loc[own["mean"].idxmax()] if how == "best" else own.iloc[-1]
            values = (row["mean"], row["low"], row["high"])
            if how == "mean":
                values = (own["mean"].mean(), math.nan, math.nan)
            found.append((title, how, label, row["block"], *values))
    return pd.DataFrame(found, columns=["title", "how", "model", "block", "mean", "low", "high"])


def headline(results: AnalysisResults) -> pd.DataFrame:
    """Return the main numbers as text: a line for each model, columns that some model has."""
    labels = pd.Index([model.label for model in results.models], name="model")
    shown = estimates(drawn_rows(results))
    texts = map(interval, shown["mean"], shown["low"], shown["high"])
    blocks = [f" (block {row.block})" * (row.how == "best") for row in shown.itertuples()]
    shown = shown.assign(text=[f"{text}{block}" for text, block in zip(texts, blocks, strict=True)])
    table = shown.pivot(index="model", columns="title", values="text")
    table = table.reindex(index=labels, columns=shown["title"].unique()).fillna(DASH)
    return table.rename_axis(columns=None)
