"""Results on disk, and which of them are seeds of one row of a comparison."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from jaxtyping import Float
from torch import Tensor

from vitlab.errors import InputError
from vitlab.evaluation.result import RESULT, NamedCounts, Result, read_counts
from vitlab.probes.metrics import bootstrap_scores

Key = tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """One result on disk.

    Attributes:
        path: folder of the result.
        result: its content.
        counts: of each test image; None where the file is missing.
    """

    path: Path
    result: Result
    counts: NamedCounts | None

    @property
    def table(self) -> Key:
        """Key that is equal among comparable results: data, protocol, settings and score."""
        used, data = self.result.protocol, self.result.data
        return (data.dataset, data.fingerprint, used.name, used.hash, self.result.headline)

    @property
    def row(self) -> Key:
        """Key that is equal among seeds: encoder and path of the weights without the seed."""
        weights = self.result.weights
        config = json.dumps(weights.encoder, sort_keys=True)
        return (any_seed(weights.path), weights.branch, weights.family, config)

    @property
    def seed(self) -> Key:
        """Seed folder of the weights, or of the result, and seed of the evaluation."""
        of_weights = seed_of(self.result.weights.path) or seed_of(str(self.path))
        return (of_weights, str(self.result.seed))

    @cached_property
    def draws(self) -> Float[Tensor, " r"]:
        """Scores of resampled test sets, the same draws of images for all results."""
        assert self.counts is not None
        return bootstrap_scores(len(self.counts.counts), self.counts.counts.score)


def read_evaluations(paths: Sequence[Path]) -> list[Evaluation]:
    """Read results, each once, in the order they are named.

    Args:
        paths: folders of results, their JSON files, or folders above them.

    Raises:
        InputError: no result below a path, or an unreadable one.
    """
    places: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir() and not (path / RESULT).exists():
            found = sorted(file.parent for file in path.rglob(RESULT))
        else:
            found = [path.parent if path.name == RESULT and path.is_file() else path]
        if not found:
            raise InputError(
                f"there is no {RESULT} in {path} or below it; give folders that `vitlab evaluate` "
                "has written",
                field="results",
            )
        for place in found:
            places.setdefault(place.resolve(), place)
    return [Evaluation(place, Result.read(place), read_counts(place)) for place in places.values()]


def rows_of(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, list[Evaluation]]]:
    """Yield seeds of one encoder, with a label that no other row of the table has.

    A seed that occurs twice, such as that of weights that were trained again, makes another row.
    """
    rows: dict[Key, list[Evaluation]] = {}
    seen: Counter[Key] = Counter()
    for each in evaluations:
        same = (*each.table, *each.row, *each.seed)
        seen[same] += 1
        rows.setdefault((*each.table, *each.row, str(seen[same])), []).append(each)
    labels: dict[Key, str] = {}
    for level in range(4):
        left = {key: _label(row[0], level) for key, row in rows.items() if key not in labels}
        count = Counter((rows[key][0].table, label) for key, label in left.items())
        for key, label in left.items():
            if count[rows[key][0].table, label] == 1 or level == 3:
                labels[key] = label
    return ((labels[key], row) for key, row in rows.items())


def _label(evaluation: Evaluation, level: int) -> str:
    """Return a name of the weights, the longer the higher the level."""
    weights = evaluation.result.weights
    path = PurePath(weights.path)
    parts = [part for part in path.parts if part != path.anchor]
    places = _seeds(parts)
    if places and places[-1] > 0:
        short = parts[places[-1] - 1]  # as `vitlab curves` names a row
    elif path.name in {"best.ckpt", "last.ckpt"} and len(parts) > 1:
        short = parts[-2]
    else:
        short = path.stem if path.suffix else path.name
    branch = f" ({weights.branch})" if weights.branch else ""
    longest = f"{any_seed(weights.path)}{branch}"
    return printable([short, f"{short}/{path.name}", longest, str(evaluation.path)][level])


def printable(text: str) -> str:
    """Replace control characters: names come from files of others."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def any_seed(path: str) -> str:
    """Return a path in which the last folder of a seed is that of any seed."""
    parts = list(PurePath(path).parts)
    for place in _seeds(parts)[-1:]:
        parts[place] = "seed*"
    return str(PurePath(*parts))


def seed_of(path: str) -> str:
    """Return the last folder of a seed in a path; "" if there is none."""
    parts = PurePath(path).parts
    return "".join(parts[place] for place in _seeds(parts)[-1:])


def _seeds(parts: Sequence[str]) -> list[int]:
    """Return the places of folders of a seed, as `vitlab fit` names them."""
    return [at for at, part in enumerate(parts) if re.fullmatch(r"seed[-_]?\d+", part)]
