"""Results of `vitlab evaluate` side by side: one pandas table, with differences paired by image."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vitlab.errors import InputError
from vitlab.evaluation.evaluations import Evaluation, Key, printable, rows_of
from vitlab.evaluation.registry import differences
from vitlab.evaluation.result import NamedCounts, ProtocolInfo, Result
from vitlab.probes.metrics import percentile_interval

ON_VAL = "the head was chosen on the very images that are reported, which flatters the score"
NO_INTERVAL = "no interval: counts of images are missing, or seeds have not the same test images"
PUBLISHED = "published (not ours)"


def compare(
    evaluations: Sequence[Evaluation], baseline: str = "", references: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a row for each encoder and protocol, and for each published number that fits.

    Column `table` numbers the groups of comparable results: same data, protocol, settings and
    score, in the order in which their first results are named. Scores and differences are in
    percent, with 95 % intervals over test images and sample deviations over seeds.

    Args:
        evaluations: results on disk.
        baseline: label of the row that others are compared with; by default a table's first.
        references: published numbers, see `vitlab.evaluation.references`.

    Raises:
        InputError: no table has the baseline.
    """
    tables: dict[Key, dict[str, list[Evaluation]]] = {}
    for label, row in rows_of(evaluations):
        tables.setdefault(row[0].table, {})[label] = row
    labels = list(dict.fromkeys(label for rows in tables.values() for label in rows))
    if baseline and baseline not in labels:
        raise InputError(
            f"there is no row {baseline!r}; the rows are {', '.join(labels)}", field="--baseline"
        )
    found: list[dict[str, Any]] = []
    results: list[Result] = []  # the first of each table
    for rows in tables.values():
        result = next(iter(rows.values()))[0].result
        common = _common(result, results)
        results.append(result)
        name = baseline or next(iter(rows))
        base = rows.get(name)
        common["baseline"] = name if base else ""
        for label, row in rows.items():
            scores = {**_score(row), **_difference(row, base, name)}
            found.append({**common, "weights": label, **scores})
        found += [{**common, **each} for each in _published(result, references)]
    return pd.DataFrame(found)


def _common(result: Result, others: Sequence[Result]) -> dict[str, Any]:
    """Return the columns that all rows of a table share."""
    data, used = result.data, result.protocol
    return {
        "table": len(others) + 1,
        "dataset": data.dataset,
        "split": data.val,
        "images": data.counts.get(data.val),
        "fingerprint": data.fingerprint,
        "protocol": used.name,
        "version": used.version,
        "hash": used.hash,
        "changed": "; ".join(
            f"{key} {_text(new)} (published: {_text(old)})"
            for key, (old, new) in sorted(used.changed.items())
        ),
        "not_comparable": _not_comparable(result, others) if others else "",
        "score": result.headline,
    }


def _score(row: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the columns of a score: mean over seeds, interval over test images."""
    values = [each.result.value for each in row]
    if len(row) == 1:
        interval: tuple[float, float] | None = row[0].result.interval
    else:
        counts = [each.counts for each in row if each.counts is not None]
        same = len(counts) == len(row) and not _mismatch(counts)
        interval = _interval([each.draws for each in row]) if same else None
    remarks = [ON_VAL] if any(each.result.chosen_on == "val" for each in row) else []
    remarks += [NO_INTERVAL] if interval is None else []
    return {"seeds": len(row), **_estimate("", values, interval), "remarks": remarks}


def _difference(
    row: Sequence[Evaluation], base: Sequence[Evaluation] | None, name: str
) -> dict[str, Any]:
    """Return the columns of the difference to the baseline, paired by seed and by test image."""
    if row is base:
        return {}
    pairs = list(_pairs(row, base)) if base else []
    counts = [each.counts for pair in pairs for each in pair if each.counts is not None]
    if base is None:
        why = f"the baseline {name} has no result with this protocol, its settings and these data"
    elif not pairs:
        why = "no seed is in both this row and the baseline"
    elif len(counts) < 2 * len(pairs):
        why = "counts of images are missing"
    else:
        why = _mismatch(counts)
    if base is None or why:
        return {"difference_remarks": [f"no difference: {why}"]}
    values = [each.result.value - other.result.value for each, other in pairs]
    interval = _interval([each.draws - other.draws for each, other in pairs])
    most = max(len(row), len(base))
    part = f"over the {len(pairs)} of {most} seeds that both rows have"
    remarks = [part] if len(pairs) < most else []
    return {**_estimate("difference", values, interval), "difference_remarks": remarks}


def _estimate(
    name: str, values: Sequence[float], interval: tuple[float, float] | None
) -> dict[str, Any]:
    low, high = interval or (float("nan"), float("nan"))
    dash = f"{name}_" if name else ""
    return {
        name or "percent": statistics.mean(values) if len(values) > 1 else values[0],
        f"{dash}low": low,
        f"{dash}high": high,
        f"{dash}deviation": statistics.stdev(values) if len(values) > 1 else float("nan"),
        f"{dash}by_seed": list(values),
    }


def _pairs(
    row: Sequence[Evaluation], base: Sequence[Evaluation]
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Pair by seed; where one side has a single result, it is paired with all of the other."""
    by_seed = {each.seed: each for each in base}
    if any(each.seed in by_seed for each in row):
        yield from ((each, by_seed[each.seed]) for each in row if each.seed in by_seed)
    elif len(row) == 1 or len(base) == 1:
        yield from ((each, other) for each in row for other in base)


def _interval(draws: Sequence[Tensor]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of draws that belong together."""
    return percentile_interval(torch.stack(list(draws)).mean(0))


def _mismatch(counts: Sequence[NamedCounts]) -> str:
    """Return why counts are not those of the same images and masks; "" if they are."""
    if any(each.names != counts[0].names for each in counts):
        return "the test images are not the same"
    truths = [each.counts.tensors().get("truth") for each in counts]
    if len({truth is None for truth in truths}) > 1:
        return "images are counted in one result, pixels in the other"
    first = truths[0]
    for truth in truths[1:]:
        if first is not None and truth is not None and not torch.equal(first, truth):
            return (
                "the test images have the same names but other masks, or masks at other sizes "
                "(pixels of the classes differ)"
            )
    return ""


def _published(result: Result, references: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the columns of published numbers: same protocol, unchanged, on as many images."""
    if references is None or result.protocol.changed:
        return []
    data, used = result.data, result.protocol
    fits = (references.protocol == used.name) & (references.dataset == data.dataset)
    fits &= references.images == data.counts.get(data.val, -1)
    fits &= references.learned.isin([0, data.counts.get(data.train, 0)])
    columns = ["percent", "model", "conditions", "source", "learned"]
    found = references.loc[fits, columns].add_prefix("published_")
    return [{**each, "remarks": [PUBLISHED]} for each in found.to_dict("records")]


def _not_comparable(result: Result, others: Sequence[Result]) -> str:
    """Return what differs from the most similar one of the tables before."""

    def likeness(number: int) -> tuple[bool, bool]:
        other = others[number]
        alike = other.protocol.name == result.protocol.name
        return (other.data.dataset == result.data.dataset, alike)

    number = max(range(len(others)), key=likeness)
    other = others[number]
    reasons = []
    if other.data.dataset != result.data.dataset:
        reasons.append(f"dataset: {other.data.dataset} vs {result.data.dataset}")
    elif other.data.fingerprint != result.data.fingerprint:
        reasons.append(f"files of {result.data.dataset}: {_files(other)} vs {_files(result)}")
    reasons += _changes(other.protocol, result.protocol)
    if other.headline != result.headline:
        reasons.append(f"score: {other.headline} vs {result.headline}")
    place = f"{other.data.dataset}, {other.protocol.name}, hash {other.protocol.hash}"
    return printable(f"Not comparable with table {number + 1} ({place}): {'; '.join(reasons)}.")


def _files(result: Result) -> str:
    data = result.data
    counts = ", ".join(f"{data.counts.get(each, '?')} {each}" for each in (data.train, data.val))
    return f"{counts} (fingerprint {data.fingerprint[:12]})"


def _changes(one: ProtocolInfo, other: ProtocolInfo) -> list[str]:
    """Return what differs between two protocols, setting by setting where they have one name."""
    if one.name != other.name:
        return [f"protocol: {one.name} vs {other.name}"]
    left, right = ({**each.settings, "version": each.version} for each in (one, other))
    values = differences(left, right)
    return [f"{key}: {_text(a)} vs {_text(b)}" for key, (a, b) in values.items()]


def _text(value: Any) -> str:
    return "none" if value is None else printable(str(value))
