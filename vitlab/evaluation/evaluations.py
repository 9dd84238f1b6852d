"""Results on disk, and the keys by which they belong together in a comparison."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from jaxtyping import Float
from torch import Tensor

from vitlab.errors import InputError
from vitlab.evaluation.result import RESULT, NamedCounts, Result, read_counts
from vitlab.probes.metrics import bootstrap_scores
from vitlab.terminal import printable
from vitlab.visualization.labels import SEED, weights_names

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
        return (split_seed(weights.path)[0], weights.branch, weights.family, config)

    @property
    def seed(self) -> Key:
        """Seed folder of the weights, or of the result, and seed of the evaluation."""
        of_weights = split_seed(self.result.weights.path)[1] or split_seed(str(self.path))[1]
        return (of_weights, str(self.result.seed))

    @property
    def names(self) -> list[str]:
        """Names of the weights, from short to long; the last is the folder of the result."""
        path, branch = split_seed(self.result.weights.path)[0], self.result.weights.branch
        names = weights_names(path, branch) or weights_names(str(self.path.absolute()))
        return [printable(name) for name in (*names, self.path)]

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
        found = [path] if path.is_file() else sorted(path.rglob(RESULT))
        if not found:
            raise InputError(
                f"there is no {RESULT} in {path} or below it; give folders that `vitlab evaluate` "
                "has written",
                field="results",
            )
        for file in found:
            places.setdefault(file.parent.resolve(), file.parent)
    return [Evaluation(place, Result.read(place), read_counts(place)) for place in places.values()]


def split_seed(path: str) -> tuple[str, str]:
    """Return a path whose last folder of a seed is "seed*", and that folder; "" without one."""
    parts = list(PurePath(path).parts)
    places = [place for place, part in enumerate(parts) if SEED.fullmatch(part)]
    if not places:
        return str(PurePath(path)), ""
    seed, parts[places[-1]] = parts[places[-1]], "seed*"
    return str(PurePath(*parts)), seed
