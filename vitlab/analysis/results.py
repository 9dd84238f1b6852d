"""Results of an analysis: a long table of numbers, arrays, and what made them; as JSON and CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from torch import Tensor

from vitlab.atomic_io import read_json_as, write_bytes, write_json
from vitlab.errors import InputError

JSON, CSV = "analysis.json", "analysis.csv"


@dataclass(frozen=True)
class Measure:
    """Definition of a measure.

    Attributes:
        name: as in the tables, such as "cls_patch_cosine".
        title: for people, such as "[CLS]-patch cosine".
        unit: "" for a plain number, "pixels", "share", "nats" ...
        meaning: how it is computed and over what, with its source, in one or two sentences.
    """

    name: str
    title: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class ModelInfo:
    """Description of an encoder."""

    label: str  # in tables and figures, unique
    weights: str  # path; "" for none
    hash: str  # fingerprint of options and tensors; "" for none
    config: dict[str, Any]  # arguments of the encoder, as JSON
    depth: int  # number of blocks
    heads: int  # of each block
    patch_size: int  # pixels of a patch edge
    num_registers: int  # tokens that are neither [CLS] nor patch
    parameters: int


class Row(NamedTuple):
    """A number: the mean over images, with a 95 % interval.

    Attributes:
        model: label of the model.
        measure: name of the measure.
        block: number from 0; None for the encoder's output.
        point: inside the block, such as "norm1"; "" where there is only one.
        head: number from 0; None for all together.
        role: tokens: "all", "foreground", "background", "cls", "patches", "registers"; "".
        mean: the number.
        low, high: the interval; None for one image, and for numbers of the whole set.
        images: number of images in the mean.
    """

    model: str = ""
    measure: str = ""
    block: int | None = None
    point: str = ""
    head: int | None = None
    role: str = ""
    mean: float | None = 0.0
    low: float | None = None
    high: float | None = None
    images: int = 0


class Array(NamedTuple):
    """Numbers that belong together: a value per channel, a map over the grid, a histogram.

    Attributes:
        model, measure, block, point, head, role: as in a `Row`.
        values: nested lists.
        axes: of the values, such as ["channel"], ["row", "column"], ["bin"].
        edges: of a histogram's bins, one more than values; empty otherwise.
    """

    model: str = ""
    measure: str = ""
    block: int | None = None
    point: str = ""
    head: int | None = None
    role: str = ""
    values: list[Any] = []  # noqa: RUF012
    axes: list[str] = []  # noqa: RUF012
    edges: list[float] = []  # noqa: RUF012


@dataclass(frozen=True)
class Omission:
    """A measure that was left out, and the reason; `model` is "" where it holds for all."""

    model: str
    measure: str
    reason: str


@dataclass(frozen=True)
class AnalysisResults:
    """All results of an analysis.

    Attributes:
        data: dataset, root, split, images, size in pixels, and whether there are masks.
        models: the encoders.
        measures: definitions.
        rows: a `Row` per number; block and head are nullable integers.
        arrays: an `Array` per row.
        left_out: measures that were left out.
        environment: see `vitlab.atomic_io.environment`.
    """

    data: dict[str, Any]
    models: Sequence[ModelInfo]
    measures: Sequence[Measure]
    rows: pd.DataFrame
    arrays: pd.DataFrame
    left_out: Sequence[Omission] = ()
    environment: dict[str, Any] = field(default_factory=dict)

    def select(self, measure: str, **where: Any) -> pd.DataFrame:
        """Return the rows of a measure whose columns have the given values; None is missing."""
        found = self.rows[self.rows["measure"] == measure]
        for name, value in where.items():
            found = found[found[name].isna() if value is None else found[name].eq(value)]
        return found

    def save(self, folder: Path) -> None:
        """Write analysis.json, and the rows as analysis.csv."""
        content: dict[str, Any] = {"format": "vitlab analysis 2", "data": self.data}
        for name in ("models", "measures", "left_out"):
            content[name] = [asdict(each) for each in getattr(self, name)]
        for name in ("rows", "arrays"):
            frame = getattr(self, name).astype(object)
            content[name] = frame.where(frame.notna(), None).to_dict("records")
        write_json(folder / JSON, {**content, "environment": self.environment})
        write_bytes(folder / CSV, self.rows.to_csv(index=False).encode())


@dataclass
class AnalysisFile:
    """Content of analysis.json, see `AnalysisResults`."""

    format: Literal["vitlab analysis 2"]
    data: dict[str, Any]
    models: list[ModelInfo]
    measures: list[Measure]
    left_out: list[Omission]
    rows: list[Row]
    arrays: list[Array]
    environment: dict[str, Any]


def table(rows: Iterable[Row] | Iterable[Array], kind: type[Row] | type[Array]) -> pd.DataFrame:
    """Return rows as a table with the columns of their kind."""
    found = pd.DataFrame(list(rows), columns=list(kind.__annotations__))
    types = {"block": "Int64", "head": "Int64"}
    if kind is Row:
        types |= {"mean": "float64", "low": "float64", "high": "float64", "images": "int64"}
    return found.astype(types)


def rounded(values: Tensor) -> list[Any]:
    """Return the values of an array, with six significant digits, as nested lists."""
    if values.ndim > 1:
        return [rounded(each) for each in values]
    return [float(f"{each:.6g}") for each in values.tolist()]


def read_results(path: Path) -> AnalysisResults:
    """Read analysis.json, or the one in a folder.

    Raises:
        InputError: the file is missing or of another kind.
    """
    path = path / JSON if path.is_dir() else path
    try:
        content = vars(read_json_as(path, AnalysisFile, finite=False))
        del content["format"]
        tables = {"rows": table(content["rows"], Row), "arrays": table(content["arrays"], Array)}
        return AnalysisResults(**{**content, **tables})
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} holds no analysis of this version ({error}); give the folder that "
            "`vitlab analyze --out` wrote",
            field=JSON,
        ) from error
