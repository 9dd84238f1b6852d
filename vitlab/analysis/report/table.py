"""Selections of the long table of results, and numbers as text."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from vitlab.analysis.results import Measure

READ = "read"  # the point where a block's output is read like the encoder's
DASH = "\N{EN DASH}"  # for a missing number


def number(value: float | None) -> str:
    """Return three digits of a number; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def decimals(low: float, high: float) -> int:
    """Return how many decimals show two digits of half an interval."""
    half = (high - low) / 2
    return 3 if half <= 0 else min(6, max(0, 1 - math.floor(math.log10(half))))


def bounds(row: Any) -> str:
    """Return "[low, high]", or nothing where there is no interval."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return ""
    digits = decimals(row.low, row.high)
    return f"[{row.low:.{digits}f}, {row.high:.{digits}f}]"


def center(row: Any) -> str:
    """Return a mean with as many digits as its interval."""
    if not math.isfinite(row.mean) or not bounds(row):
        return number(row.mean)
    return f"{row.mean:.{decimals(row.low, row.high)}f}"


def interval(row: Any) -> str:
    """Return "mean [low, high]", or the mean alone where there is no interval."""
    return f"{center(row)} {bounds(row)}".strip()


def block_name(block: Any) -> str:
    """Return "block 3", or "output"."""
    return "output" if pd.isna(block) else f"block {block}"


def quantity(measure: Measure) -> str:
    """Return title and unit of a measure."""
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def slug(*parts: str) -> str:
    """Return the name of a file: letters and digits of all parts."""
    text = "-".join(part for part in parts if part)
    plain = "".join(each if each.isascii() and each.isalnum() else "-" for each in text.lower())
    return "-".join(piece for piece in plain.split("-") if piece) or "figure"


def by_block(rows: pd.DataFrame, point: str, role: str) -> pd.DataFrame:
    """Return the rows of a measure at one point and role, all heads together, the output last.

    Where blocks are also read like the output, the output belongs to these numbers alone.
    """
    inside = point != READ and (rows["point"] == READ).any()
    chosen = (rows["point"] == point) & rows["block"].notna()
    if not inside:
        chosen |= rows["block"].isna()
    found = rows[chosen & rows["head"].isna() & (rows["role"] == role)]
    found = found.sort_values("block", kind="stable")
    last_block = found.groupby("model")["mean"].shift()
    return found[found["block"].notna() | (found["mean"] != last_block)]


def layers(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return a number for each block and the output: at the last point, of all or of patches."""
    rows = rows[(rows["model"] == model) & rows["head"].isna()]
    blocks = rows[rows["block"].notna()]
    blocks = rows if blocks.empty else blocks
    if blocks.empty:
        return rows
    point = blocks["point"].iloc[-1]
    roles = list(blocks["role"][blocks["point"] == point].unique())
    role = next((each for each in ("all", "", "patches") if each in roles), roles[0])
    at_point = (rows["point"] == point) | rows["block"].isna()
    return rows[at_point & (rows["role"] == role)].sort_values("block", kind="stable")


def best(rows: pd.DataFrame) -> Any:
    """Return the row with the largest mean, the first of equals; None where there is none."""
    rows = rows.dropna(subset="mean")
    return None if rows.empty else next(rows.loc[[rows["mean"].idxmax()]].itertuples())


def depth(rows: pd.DataFrame) -> int:
    """Return the number of blocks in the rows."""
    blocks = rows["block"].dropna()
    return 0 if blocks.empty else int(blocks.max()) + 1


def points(rows: pd.DataFrame) -> list[str]:
    """Return the points inside a block, in the order in which they are passed."""
    inside = rows[rows["block"].notna() & rows["head"].isna()]
    return [name for name in inside["point"].unique() if name != READ]


def norm_crossings(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each norm with the point before it."""
    return [(a, b) for a, b in pairwise(names) if "norm" in b]


def averaged(rows: pd.DataFrame) -> str:
    """Return a sentence on the number of images, and on what the band is."""
    counts = sorted(set(rows["images"]))
    if not counts:
        return ""
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    images = "image" if counts == [1] else "images"
    if rows[["mean", "low", "high"]].notna().all(axis=1).any():
        return f"Mean over {many} {images}; band: 95 % interval over images."
    why = "one image has none" if counts == [1] else "a number of the whole set has none of its own"
    return f"Over {many} {images}; no interval: {why}."


def pivot(
    series: Mapping[str, pd.DataFrame], first: str = "block", ticks: Sequence[str] = ()
) -> pd.DataFrame:
    """Return numbers as text: a row for each block, or tick, and a column for each series."""
    columns = {}
    for name, rows in series.items():
        keys = [math.inf if pd.isna(block) else int(block) for block in rows["block"]]
        texts = [interval(row) for row in rows.itertuples()]
        columns[name] = pd.Series(texts, keys, dtype=object)
    found = pd.DataFrame(columns).sort_index().fillna(DASH)
    found.index = [
        ticks[int(i)] if ticks else "output" if i == math.inf else str(int(i)) for i in found.index
    ]
    return found.rename_axis(first).reset_index()
