"""The table at the top of a report: models down, the numbers one asks for first across."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitlab.analysis.report.drawing import DASH, bounds, center, number
from vitlab.analysis.report.gathered import Gathered, finite, where
from vitlab.analysis.report.layers import best, series
from vitlab.analysis.results import Row


@dataclass(frozen=True)
class Cell:
    """A number of the table, its interval, and the layer it is of."""

    text: str
    interval: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Headline:
    """The table.

    Attributes:
        columns: their titles.
        lines: for each model its label, color and cells.
    """

    columns: Sequence[str]
    lines: Sequence[tuple[str, str, Sequence[Cell]]]


@dataclass(frozen=True)
class Asked:
    """A column.

    Attributes:
        title: of the column.
        measure: name of the measure.
        how: "last" layer, "best" layer, or "mean" over all blocks and heads.
    """

    title: str
    measure: str
    how: str


ASKED = (
    Asked("[CLS]-patch cosine, output", "cls_patch_cosine", "last"),
    Asked("patch-patch cosine, output", "patch_patch_cosine", "last"),
    Asked("diffusion index, output", "diffusion_index", "last"),
    Asked("foreground AUROC, best", "foreground_auroc", "best"),
    Asked("foreground AUROC, output", "foreground_auroc", "last"),
    Asked("high-norm patches", "norm_outliers", "last"),
    Asked("exact zeros of attention", "attention_zeros", "mean"),
    Asked("rank of patches, output", "feature_rank", "last"),
    Asked("mIoU, best", "block_miou", "best"),
)


def headline(gathered: Gathered) -> Headline:
    """Return the table, without columns that no model has a number for."""
    found = {
        asked: [cell(gathered, asked, label) for label in gathered.looks]
        for asked in ASKED
        if gathered.rows(asked.measure)
    }
    kept = [asked for asked, cells in found.items() if any(each.text != DASH for each in cells)]
    return Headline(
        [asked.title for asked in kept],
        [
            (label, look.color, [found[asked][place] for asked in kept])
            for place, (label, look) in enumerate(gathered.looks.items())
        ],
    )


def cell(gathered: Gathered, asked: Asked, label: str) -> Cell:
    """Return one number."""
    if asked.how == "mean":
        return Cell(number(mean(gathered, asked.measure, label)))
    row = chosen(gathered, asked, label)
    if row is None:
        return Cell(DASH)
    layer = "" if row.block is None and asked.how == "last" else where(row)
    return Cell(center(row.mean, row.low, row.high), bounds(row.low, row.high), layer)


def chosen(gathered: Gathered, asked: Asked, label: str) -> Row | None:
    """Return the best or the last layer of a model."""
    rows = [row for row in series(gathered, asked.measure, label) if finite(row)]
    if asked.how == "best":
        return best(rows)
    return rows[-1] if rows else None


def mean(gathered: Gathered, measure: str, label: str) -> float:
    """Return the mean over blocks, and heads if there are any, of what patches ask."""
    rows = [row for row in gathered.rows(measure) if row.model == label and finite(row)]
    rows = [row for row in rows if row.role == "patches"] or rows
    rows = [row for row in rows if row.head is not None] or rows
    return sum(row.mean for row in rows) / len(rows) if rows else math.nan
