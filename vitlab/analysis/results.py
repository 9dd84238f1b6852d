"""What an analysis finds: rows of numbers, arrays, and all that made them; as JSON and CSV."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vitlab.atomic_io import write_bytes, write_json

FORMAT = "vitlab analysis 1"
JSON, CSV = "findings.json", "findings.csv"


@dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        name: as in rows, such as "cls_patch_cosine".
        title: for people, such as "[CLS]-patch cosine".
        unit: "" for a plain number, "pixels", "share", "nats" ...
        meaning: how it is computed and over what, with its source, in one or two sentences.
    """

    name: str
    title: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Model:
    """An encoder that is analyzed.

    Attributes:
        label: its name in rows and figures, unique.
        weights: where they lie.
        hash: fingerprint of options and tensors.
        config: arguments of the encoder.
        depth: number of blocks.
        heads: in each block.
        patch: pixels of a patch edge.
        registers: tokens that are neither [CLS] nor patch.
        parameters: number of them.
    """

    label: str
    weights: str
    hash: str
    config: dict[str, Any]
    depth: int
    heads: int
    patch: int
    registers: int
    parameters: int


@dataclass(frozen=True)
class Row:
    """One number: the mean over images, with a 95 % interval.

    Attributes:
        model: label of the model.
        measure: name of the measure.
        block: number from 0; None for the encoder's output or what has no block.
        point: inside the block, such as "norm1"; "" where there is only one.
        head: number from 0; None for all together.
        role: which tokens: "all", "foreground", "background", "cls", "patches", "registers"; "".
        mean: the number.
        low: of the interval; None where one image, or none of its own per image, has no spread.
        high: the same.
        images: how many it is the mean of.
    """

    model: str
    measure: str
    block: int | None
    point: str
    head: int | None
    role: str
    mean: float
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True)
class Array:
    """Numbers that belong together: a value for each channel, a map over the grid, a histogram.

    Attributes:
        model, measure, block, point, head, role: as in a `Row`.
        values: nested lists.
        axes: what they run over, such as ["channel"], ["row", "column"], ["bin"].
        edges: of a histogram's bins, one more than values; empty otherwise.
    """

    model: str
    measure: str
    block: int | None
    point: str
    head: int | None
    role: str
    values: list[Any]
    axes: list[str]
    edges: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why, in a sentence; `model` is "" where it holds for all."""

    model: str
    measure: str
    reason: str


@dataclass(frozen=True)
class AnalysisResults:
    """All that one analysis found.

    Attributes:
        data: dataset, root, split, images, size in pixels, and whether there are masks.
        environment: what made it, see `vitlab.atomic_io.environment`.
    """

    data: dict[str, Any]
    models: Sequence[Model]
    measures: Sequence[Measure]
    rows: Sequence[Row]
    arrays: Sequence[Array] = ()
    left_out: Sequence[LeftOut] = ()
    environment: dict[str, Any] = field(default_factory=dict)

    def select(self, measure: str, **where: Any) -> list[Row]:
        """Return the rows of a measure whose fields have the given values."""
        return [
            row
            for row in self.rows
            if row.measure == measure and all(getattr(row, k) == v for k, v in where.items())
        ]

    def save(self, folder: Path) -> None:
        """Write findings.json, and the rows as findings.csv."""
        write_json(folder / JSON, {"format": FORMAT, **asdict(self)})
        text = io.StringIO()
        writer = csv.writer(text)
        names = [each.name for each in fields(Row)]
        writer.writerow(names)
        for row in self.rows:
            values = (getattr(row, name) for name in names)
            writer.writerow(["" if value is None else value for value in values])
        write_bytes(folder / CSV, text.getvalue().encode())


def read_results(path: Path) -> AnalysisResults:
    """Read findings.json, or the one in a folder.

    Raises:
        ValueError: the file is none of ours; the message says what to give.
    """
    path = path / JSON if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise KeyError("format")
        kinds = {"models": Model, "measures": Measure, "rows": Row, "arrays": Array}
        kinds["left_out"] = LeftOut
        for name, kind in kinds.items():
            content[name] = [kind(**each) for each in content[name]]
        return AnalysisResults(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no analysis of this version ({error}); give the folder that "
            "`vitlab analyze --out` wrote"
        ) from error
