"""Results side by side: seeds of one encoder become a row, what can be compared a block."""

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.evaluation.counts import Counts
from vitlab.evaluation.result import Result, read_counts
from vitlab.probes.metrics import bootstrap_scores

Key = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One result on disk.

    Attributes:
        path: folder of the result.
        result: what was read there.
        counts: of each image; None where they are not beside it.
    """

    path: Path
    result: Result
    counts: Counts | None

    @property
    def block(self) -> Key:
        """What must be equal for numbers to be compared."""
        used, data = self.result.protocol, self.result.data
        return (data.dataset, data.fingerprint, used.name, used.hash, self.result.headline)

    @property
    def arm(self) -> Key:
        """What is equal among seeds: encoder and place of the weights, but for the seed folder."""
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
        """Scores of resampled test sets, the same draws of images for all runs."""
        assert self.counts is not None
        return bootstrap_scores(len(self.counts.evidence), self.counts.evidence.score)


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, in percent.

    Attributes:
        value: mean over the seeds.
        by_seed: the value of each.
        interval: 95 % over test images of the mean; None where the counts are not at hand.
    """

    value: float
    by_seed: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def deviation(self) -> float | None:
        """Sample deviation over seeds; a single one has none."""
        return statistics.stdev(self.by_seed) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Arm:
    """Results that differ in nothing but the seed.

    Attributes:
        label: of the row.
        runs: in the order they are named.
    """

    label: str
    runs: Sequence[Run]

    @property
    def score(self) -> Estimate:
        """The headline."""
        values = tuple(run.result.value for run in self.runs)
        if len(self.runs) == 1:
            return Estimate(values[0], values, self.runs[0].result.interval)
        counts = [run.counts for run in self.runs if run.counts is not None]
        same = len(counts) == len(self.runs) and not _unlike(counts)
        draws = [run.draws for run in self.runs] if same else []
        return Estimate(statistics.mean(values), values, _interval(draws))


def read(path: Path) -> Run:
    """Read a result with its counts.

    Raises:
        ValueError: see `Result.read` and `read_counts`.
    """
    result = Result.read(path)
    return Run(path if path.is_dir() else path.parent, result, read_counts(path, result))


def difference(runs: Sequence[Run], baseline: Sequence[Run]) -> Estimate:
    """Return what runs score more than a baseline, paired by seed and by test image.

    Runs are paired by seed; where one side has a single run, all of the other are paired with it.
    In each of the resampled test sets, both are scored on the same images.

    Raises:
        ValueError: the numbers were made differently, or cannot be paired.
    """
    if len({run.block for run in [*runs, *baseline]}) > 1:
        raise ValueError(
            "results of different protocols, settings or data have no difference; evaluate both "
            "weights by one protocol on the same data"
        )
    pairs = list(_pairs(runs, baseline))
    if not pairs:
        raise ValueError("no difference: no seed is in both this row and the baseline")
    counts = [run.counts for pair in pairs for run in pair if run.counts is not None]
    if len(counts) < 2 * len(pairs):
        raise ValueError("no difference: counts of images (evidence.safetensors) are missing")
    if why := _unlike(counts):
        raise ValueError(f"no difference: {why}")
    values = tuple(run.result.value - other.result.value for run, other in pairs)
    draws = [run.draws - other.draws for run, other in pairs]
    return Estimate(statistics.mean(values), values, _interval(draws))


def _unlike(counts: Sequence[Counts]) -> str:
    """Say why counts are not those of the same images and masks; "" if they may be."""
    first = counts[0]
    if any(each.names != first.names for each in counts):
        return "the test images are not the same"
    truth = first.evidence.tensors().get("truth")
    for each in counts:
        other = each.evidence.tensors().get("truth")
        if (truth is None) != (other is None):
            return "images are counted in one result, pixels in the other"
        if truth is None or other is None:
            continue
        if truth.shape != other.shape or bool((truth != other).any()):
            return (
                "the test images have the same names but other masks, or masks at other sizes "
                "(pixels of the classes differ)"
            )
    return ""


def _pairs(runs: Sequence[Run], baseline: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    by_seed = {run.seed: run for run in baseline}
    if any(run.seed in by_seed for run in runs):
        yield from ((run, by_seed[run.seed]) for run in runs if run.seed in by_seed)
    elif len(runs) == 1 or len(baseline) == 1:
        yield from ((run, other) for run in runs for other in baseline)


def _interval(draws: Sequence[Tensor]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of draws that belong together."""
    if not draws:
        return None
    mean = torch.stack(list(draws)).mean(0)
    # a drawn set without any labeled pixel has no score
    low, high = mean.nanquantile(torch.tensor([0.025, 0.975], dtype=mean.dtype)).tolist()
    return low, high


def arms(runs: Sequence[Run]) -> dict[Key, list[Arm]]:
    """Return the rows of each block, in the order their first results are named.

    The same seed once more, of weights that were trained again say, is no other seed: its row is
    another one.
    """
    rows: dict[Key, list[Run]] = {}
    seen: Counter[Key] = Counter()
    for run in runs:
        same = (*run.block, *run.arm, *run.seed)
        seen[same] += 1
        repeat = str(seen[same]) if seen[same] > 1 else ""
        rows.setdefault((*run.block, *run.arm, repeat), []).append(run)
    labels = _labels({key: members[0] for key, members in rows.items()})
    blocks: dict[Key, list[Arm]] = {}
    for key, members in rows.items():
        blocks.setdefault(members[0].block, []).append(Arm(labels[key], members))
    return blocks


def _labels(rows: dict[Key, Run]) -> dict[Key, str]:
    """Return a short name of each row; a longer one where a block has the short one twice."""
    labels: dict[Key, str] = {}
    for level in range(4):
        left = [key for key in rows if key not in labels]
        made = {key: _label(rows[key], level) for key in left}
        count = Counter((rows[key].block, made[key]) for key in left)
        for key in left:
            if count[rows[key].block, made[key]] == 1 or level == 3:
                labels[key] = made[key]
    return labels


def _label(run: Run, level: int) -> str:
    """Return a name of the weights, as long as the level asks for."""
    weights = run.result.weights
    path = PurePath(weights.path)
    parts = [part for part in path.parts if part != path.anchor]
    places = [place for place, part in enumerate(parts) if _is_seed(part)]
    if places and places[-1] > 0:
        short = parts[places[-1] - 1]  # as `vitlab curves` names an arm
    elif path.name in {"best.ckpt", "last.ckpt"} and len(parts) > 1:
        short = parts[-2]
    else:
        short = path.stem if path.suffix else path.name
    branch = f" ({weights.branch})" if weights.branch else ""
    names = [short, f"{short}/{path.name}", f"{any_seed(weights.path)}{branch}", str(run.path)]
    return printable(names[level])


def printable(text: str) -> str:
    """Replace what could move a cursor or end a line: names come from files of others."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def any_seed(path: str) -> str:
    """Return a path in which the last folder of a seed is that of any seed."""
    parts = list(PurePath(path).parts)
    for place in reversed(range(len(parts))):
        if _is_seed(parts[place]):
            parts[place] = "seed*"
            break
    return str(PurePath(*parts))


def seed_of(path: str) -> str:
    """Return the last folder of a seed in a path; "" if there is none."""
    return next((part for part in reversed(PurePath(path).parts) if _is_seed(part)), "")


def _is_seed(part: str) -> bool:
    """Whether a folder is that of a seed, as `vitlab fit` names them."""
    return re.fullmatch(r"seed[-_]?\d+", part) is not None
