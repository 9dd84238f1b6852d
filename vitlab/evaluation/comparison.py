"""Results of `vitlab evaluate` side by side: one pandas table, with differences paired by image."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vitlab.config_files import protocol_names
from vitlab.errors import InputError
from vitlab.evaluation.evaluations import Evaluation, Key
from vitlab.evaluation.registry import differences, read_protocol
from vitlab.evaluation.result import ProtocolInfo, Result
from vitlab.probes.metrics import percentile_interval
from vitlab.terminal import printable
from vitlab.visualization.labels import renamed, score_title, shortest_names

ON_VAL = "the head was chosen on the very images that are reported, which flatters the score"
OTHER_IMAGES = "counts of images are missing, or of other images or masks"


def compare(
    evaluations: Sequence[Evaluation],
    baseline: str = "",
    references: pd.DataFrame | None = None,
    labels: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a row for each encoder and protocol, and for each published number that fits.

    Column `table` numbers the groups of comparable results: same data, protocol, settings and
    score, in the order in which their first results are named. Scores and differences are in
    percent, with 95 % intervals over test images and sample deviations over seeds.

    Args:
        evaluations: results on disk.
        baseline: label of the row that others are compared with; by default a table's first.
        references: published numbers, see `vitlab.evaluation.registry.read_references`.
        labels: names of the rows, see `vitlab.visualization.labels.renamed`.
        metrics: names of the scores, alike.

    Raises:
        InputError: no table has the baseline, or names that do not fit.
    """
    tables = _tables(evaluations)
    defaults = list(dict.fromkeys(label for rows in tables for label in rows))
    names = dict(zip(defaults, renamed(defaults, labels), strict=True))
    tables = [{names[label]: row for label, row in rows.items()} for rows in tables]
    if baseline and baseline not in names.values():
        raise InputError(
            f"there is no row {baseline!r}; the rows are {', '.join(names.values())}",
            field="--baseline",
        )
    scores = list(dict.fromkeys(each.result.headline for each in evaluations))
    titles = [renamed(scores, metrics, "--metrics"), [score_title(score) for score in scores]]
    named = {
        score: title if chosen == score else chosen
        for score, chosen, title in zip(scores, *titles, strict=True)
    }
    found: list[dict[str, Any]] = []
    results: list[Result] = []  # the first of each table
    for rows in tables:
        result = next(iter(rows.values()))[0].result
        name = baseline or next(iter(rows))
        common = _common(result, results) | {"score": named[result.headline]}
        common["baseline"] = name if name in rows else ""
        results.append(result)
        for label, row in rows.items():
            remarks = [ON_VAL] * any(each.result.chosen_on == "val" for each in row)
            values = _score(row, remarks) | _difference(row, rows.get(name, []), remarks)
            found.append({**common, "weights": label, **values, "remarks": "; ".join(remarks)})
        found += [{**common, **each} for each in _published(result, references)]
    return pd.DataFrame(found).map(lambda each: printable(each) if isinstance(each, str) else each)


def _tables(evaluations: Sequence[Evaluation]) -> list[dict[str, list[Evaluation]]]:
    """Return the rows of each table by label; a row has the seeds of one encoder.

    A seed that occurs twice, such as that of weights that were trained again, makes another row.
    """
    tables: dict[Key, dict[tuple[Key, int], list[Evaluation]]] = {}
    seen: Counter[tuple[Key, Key, Key]] = Counter()
    for each in evaluations:
        same = (each.table, each.row, each.seed)
        tables.setdefault(each.table, {}).setdefault((each.row, seen[same]), []).append(each)
        seen[same] += 1
    return [
        dict(zip(shortest_names([row[0].names for row in own.values()]), own.values(), strict=True))
        for own in tables.values()
    ]


def _common(result: Result, others: Sequence[Result]) -> dict[str, Any]:
    """Return the columns that all rows of a table share."""
    data, used = result.data, result.protocol
    changed = [f"{key} {new} (published: {old})" for key, (old, new) in used.changed.items()]
    return {
        "table": len(others) + 1,
        "dataset": data.dataset,
        "split": data.val,
        "images": data.counts.get(data.val),
        "fingerprint": data.fingerprint,
        "protocol": used.name,
        "version": used.version,
        "hash": used.hash,
        "changed": "; ".join(sorted(changed)),
        "outdated": _outdated(used),
        "not_comparable": _not_comparable(result, others) if others else "",
    }


def _outdated(used: ProtocolInfo) -> str:
    """Return that a protocol has changed since; "" for present ones and those of one's own."""
    file = protocol_names().get(used.name)
    version = read_protocol(file).version if file else used.version
    if version == used.version:
        return ""
    return (
        f"Made by version {used.version} of {used.name}, which is version {version} in this vitlab "
        "and gives other numbers; evaluate again to compare with present results."
    )


def _score(row: Sequence[Evaluation], remarks: list[str]) -> dict[str, Any]:
    """Return the columns of a score: mean over seeds, interval over test images."""
    draws: list[Tensor] = []
    if len(row) > 1 and _same_images(row):
        draws = [each.draws for each in row]
    elif len(row) > 1:
        remarks.append(f"no interval: {OTHER_IMAGES}")
    found = {"seeds": len(row), **_estimate([each.result.value for each in row], draws)}
    low, high = row[0].result.interval
    return found | {"low": low, "high": high} if len(row) == 1 else found


def _difference(
    row: Sequence[Evaluation], base: Sequence[Evaluation], remarks: list[str]
) -> dict[str, Any]:
    """Return the columns of the difference to the baseline, paired by seed and by test image.

    Where one side has a single result, it is paired with all of the other.
    """
    if row is base:
        return {}
    seeds = {each.seed: each for each in base}
    pairs = [(each, seeds[each.seed]) for each in row if each.seed in seeds]
    if not pairs and 1 in (len(row), len(base)):
        pairs = [(each, other) for each in row for other in base]
    most = max(len(row), len(base))
    if not base:
        remarks.append("no difference: the baseline has no result with this protocol and data")
    elif not pairs:
        remarks.append("no difference: no seed is in both this row and the baseline")
    elif not _same_images([each for pair in pairs for each in pair]):
        remarks.append(f"no difference: {OTHER_IMAGES}")
        pairs = []
    elif len(pairs) < most:
        remarks.append(f"difference over the {len(pairs)} of {most} seeds that both rows have")
    if not pairs:
        return {}
    values = [each.result.value - other.result.value for each, other in pairs]
    found = _estimate(values, [each.draws - other.draws for each, other in pairs])
    return {f"difference_{key}".removesuffix("_percent"): each for key, each in found.items()}


def _estimate(values: list[float], draws: list[Tensor]) -> dict[str, Any]:
    """Return mean, interval of the mean, and deviation; draws of the values belong together."""
    nan = float("nan")
    low, high = percentile_interval(torch.stack(draws).mean(0)) if draws else (nan, nan)
    several = len(values) > 1
    return {
        "percent": statistics.mean(values) if several else values[0],
        "low": low,
        "high": high,
        "deviation": statistics.stdev(values) if several else nan,
        "by_seed": values,
    }


def _same_images(evaluations: Sequence[Evaluation]) -> bool:
    """Whether all have counts, of the same images and truths."""
    counts = [each.counts for each in evaluations if each.counts is not None]
    if len(counts) < len(evaluations):
        return False
    truths = [each.counts.tensors().get("truth", torch.zeros(0)) for each in counts]
    return all(
        each.names == counts[0].names and torch.equal(truth, truths[0])
        for each, truth in zip(counts, truths, strict=True)
    )


def _published(result: Result, references: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    """Yield the columns of published numbers: same protocol, unchanged, on as many images."""
    if references is None or result.protocol.changed or _outdated(result.protocol):
        return
    data, used = result.data, result.protocol
    fits = (references.protocol == used.name) & (references.dataset == data.dataset)
    fits &= references.images == data.counts.get(data.val, -1)
    fits &= references.learned.isin([0, data.counts.get(data.train, 0)])
    columns = ["percent", "model", "conditions", "source", "learned"]
    yield from references.loc[fits, columns].add_prefix("published_").to_dict("records")


def _not_comparable(result: Result, others: Sequence[Result]) -> str:
    """Return what differs from the most similar one of the tables before."""

    def identity(each: Result) -> dict[str, Any]:
        data, used = each.data, each.protocol
        files = f"{data.counts} (fingerprint {data.fingerprint[:12]})"
        own = {"dataset": data.dataset, "files": files, "score": each.headline}
        return {**own, "protocol": used.name, "version": used.version, **used.settings}

    found = [differences(identity(each), identity(result)) for each in others]
    nearest = min(range(len(found)), key=lambda number: len(found[number]))
    reasons = found[nearest]
    if "protocol" in reasons:  # whose settings have nothing to do with each other
        reasons = {key: reasons[key] for key in reasons if key in ("dataset", "files", "protocol")}
    texts = "; ".join(f"{key}: {old} vs {new}" for key, (old, new) in reasons.items())
    return f"Not comparable with table {nearest + 1}: {texts}."
