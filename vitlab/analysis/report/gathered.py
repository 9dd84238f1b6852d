"""AnalysisResults as figures ask for them: by measure, by place inside a model, by model."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vitlab.analysis.report.drawing import DASH, Look, Table, interval, looks, number
from vitlab.analysis.results import AnalysisResults, Array, Measure, Row

Each = TypeVar("Each")
READ = "read"  # the point where a block's output is read as if it were the encoder's


@dataclass(frozen=True)
class Place:
    """What is drawn of a measure: one point and role; all blocks, and the output if it has them.

    Attributes:
        point, role: as in a `Row`.
    """

    point: str
    role: str


class Gathered:
    """AnalysisResults by measure.

    Attributes:
        findings: all of them.
        looks: how each model is drawn, by label.
    """

    def __init__(self, findings: AnalysisResults) -> None:
        self.findings = findings
        self.looks: dict[str, Look] = looks([model.label for model in findings.models])
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._arrays: dict[str, list[Array]] = defaultdict(list)
        for row in findings.rows:
            self._rows[row.measure].append(row)
        for array in findings.arrays:
            if array.values:
                self._arrays[array.measure].append(array)

    @property
    def measures(self) -> list[Measure]:
        """All measures: those that are described, then those that only rows or arrays name."""
        described = list(self.findings.measures)
        known = {measure.name for measure in described}
        names = dict.fromkeys([*self._rows, *self._arrays])
        return described + [Measure(name, name, "", "") for name in names if name not in known]

    def measure(self, name: str) -> Measure | None:
        """Return the measure of this name if anything was found of it."""
        if name not in self._rows and name not in self._arrays:
            return None
        return next((each for each in self.measures if each.name == name), None)

    def rows(self, measure: str) -> list[Row]:
        """Return all rows of a measure."""
        return self._rows.get(measure, [])

    def arrays(self, measure: str) -> list[Array]:
        """Return all arrays of a measure."""
        return self._arrays.get(measure, [])

    def depth(self, measure: str) -> int:
        """Return how many blocks the rows of a measure reach over."""
        return 1 + max(
            (row.block for row in self.rows(measure) if row.block is not None), default=-1
        )

    def over_depth(self, measure: str, place: Place, model: str) -> list[Row]:
        """Return the rows of a model at one point and role, by block, that of the output last.

        The output belongs to what is read of each block, if that was measured.
        """
        inside = any(row.point == READ for row in self.rows(measure)) and place.point != READ
        found = [
            row
            for row in self.rows(measure)
            if row.model == model
            and row.head is None
            and row.role == place.role
            and (row.point == place.point if row.block is not None else not inside)
        ]
        found.sort(key=lambda row: math.inf if row.block is None else row.block)
        if len(found) > 1 and found[-1].block is None and found[-1].mean == found[-2].mean:
            found.pop()  # the last block, read as the output is read
        return found


def ordered(names: Iterable[Each]) -> list[Each]:
    """Return each once, in the order they come."""
    return list(dict.fromkeys(names))


def finite(row: Row | None) -> bool:
    """Return whether there is a number."""
    return row is not None and row.mean is not None and math.isfinite(row.mean)


def certain(row: Row) -> bool:
    """Return whether there is a number with an interval."""
    bounds = (row.low, row.high)
    return finite(row) and all(bound is not None and math.isfinite(bound) for bound in bounds)


def averaged(rows: Sequence[Row]) -> str:
    """Return a sentence that says over how many images the mean is taken, and what the band is."""
    counts = sorted({row.images for row in rows})
    if not counts:
        return ""
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    images = "image" if counts == [1] else "images"
    if any(certain(row) for row in rows):
        return f"Mean over {many} {images}; band: 95 % interval over images."
    why = "one image has none" if counts == [1] else "a number of the whole set has none of its own"
    return f"Over {many} {images}; no interval: {why}."


def block_name(block: int | None) -> str:
    """Return how a block is called in tables."""
    return "output" if block is None else str(block)


def pivot(columns: Sequence[tuple[str, Sequence[Row]]], first: str = "block") -> Table:
    """Return a table with a row for each block and a column for each named series of rows."""
    blocks = {row.block for _, rows in columns for row in rows}
    order = sorted(blocks, key=lambda block: math.inf if block is None else block)
    by_block = [{row.block: row for row in rows} for _, rows in columns]
    lines = []
    for block in order:
        found = [series.get(block) for series in by_block]
        cells = [DASH if row is None else interval(row.mean, row.low, row.high) for row in found]
        lines.append([block_name(block), *cells])
    return Table([first, *(name for name, _ in columns)], lines)


def in_words(measure: Measure, columns: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Return the first and last number of each series, for those who cannot see the figure."""
    parts = []
    for name, rows in columns:
        seen = [row for row in rows if finite(row)]
        if seen:
            a, b = seen[0], seen[-1]
            last = "" if a is b else f" to {number(b.mean)} ({where(b)})"
            parts.append(f"{name}: {number(a.mean)} ({where(a)}){last}")
    return f"{measure.title} over depth. " + "; ".join(parts[:8]) + "."


def where(row: Row) -> str:
    """Return the place of a row in words."""
    return "output" if row.block is None else f"block {row.block}"


def slug(*parts: str) -> str:
    """Return the name of a file: letters and digits of all parts."""
    text = "-".join(part for part in parts if part)
    plain = "".join(each if each.isascii() and each.isalnum() else "-" for each in text.lower())
    return "-".join(piece for piece in plain.split("-") if piece) or "figure"


def quantity(measure: Measure) -> str:
    """Return what an axis says: title and unit."""
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title
