"""What can be compared is a block: rows, differences to a baseline, and what a reader must know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitlab.evaluation.references import Reference
from vitlab.evaluation.result import ProtocolInfo, Result
from vitlab.evaluation.rows import Arm, Estimate, Run, arms, difference, printable

MARKS = "†‡§¶‖"  # of footnotes, in this order; * is that of a changed protocol
CHANGED = "*"
ON_VAL = "the head was chosen on the very images that are reported, which flatters the score"
NO_INTERVAL = "no interval: counts of images are missing, or seeds have not the same test images"


@dataclass(frozen=True)
class Row:
    """One line of a block.

    Attributes:
        label: of the weights.
        seeds: number of results.
        score: the headline.
        score_mark: of a footnote to it, or "".
        difference: to the baseline; None for itself and where there is none.
        difference_mark: of a footnote to it, or "".
        baseline: whether it is what the others are compared with.
    """

    label: str
    seeds: int
    score: Estimate
    score_mark: str
    difference: Estimate | None
    difference_mark: str
    baseline: bool


@dataclass
class Block:
    """Results that can be compared: same protocol, settings and data.

    Attributes:
        first: a result of it, for what all of them share.
        rows: one for each encoder.
        baseline: label of the row that others are compared with; "" if there is none.
        notes: footnotes, by their mark.
        apart: why it is not compared with another block; "" of the first.
        published: numbers of others, made as published.
    """

    first: Result
    rows: list[Row] = field(default_factory=list)
    baseline: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    apart: str = ""
    published: list[Reference] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Data and protocol in a line."""
        data, used = self.first.data, self.first.protocol
        count = data.counts.get(data.val)
        images = f", {count:,} images" if count is not None else ""
        mark = CHANGED if used.changed else ""
        return printable(
            f"{data.dataset} {data.val}{images}: {used.name}{mark} version {used.version}, "
            f"hash {used.hash}"
        )

    def mark(self, text: str) -> str:
        """Return the mark of a footnote, which is added if it is new."""
        for mark, known in self.notes.items():
            if known == text:
                return mark
        count = len([mark for mark in self.notes if mark != CHANGED])
        rounds, place = divmod(count, len(MARKS))
        mark = MARKS[place] * (rounds + 1)
        self.notes[mark] = text
        return mark


def blocks(
    runs: Sequence[Run], baseline: str = "", references: Sequence[Reference] = ()
) -> list[Block]:
    """Return the blocks of results, in the order their first results are named.

    Raises:
        ValueError: no block has the baseline.
    """
    groups = list(arms(runs).values())
    labels = list(dict.fromkeys(arm.label for group in groups for arm in group))
    if baseline and baseline not in labels:
        raise ValueError(
            f"there is no row {baseline!r} for --baseline; the rows are {', '.join(labels)}"
        )
    made: list[Block] = []
    for group in groups:
        block = _block(group, baseline or group[0].label)
        block.published = [each for each in references if each.fits(block.first)]
        if made:
            block.apart = _apart(block.first, made)
        made.append(block)
    return made


def _block(group: Sequence[Arm], baseline: str) -> Block:
    """Return a block with its rows and footnotes."""
    block = Block(group[0].runs[0].result)
    changed = block.first.protocol.changed
    if changed:
        block.notes[CHANGED] = "changed from the published protocol: " + "; ".join(
            f"{key} {_shown(used)} (published: {_shown(old)})"
            for key, (old, used) in sorted(changed.items())
        )
    base = next((arm for arm in group if arm.label == baseline), None)
    block.baseline = base.label if base else ""
    for arm in group:
        on_val = any(run.result.chosen_on == "val" for run in arm.runs)
        score = arm.score
        score_mark = block.mark(ON_VAL) if on_val else ""
        score_mark += block.mark(NO_INTERVAL) if score.interval is None else ""
        found, why = (None, "") if arm is base else _difference(arm, base, baseline)
        difference_mark = block.mark(why) if why else ""
        block.rows.append(
            Row(arm.label, len(arm.runs), score, score_mark, found, difference_mark, arm is base)
        )
    return block


def _difference(arm: Arm, base: Arm | None, name: str) -> tuple[Estimate | None, str]:
    """Return a difference and a remark, or None and why there is none."""
    if base is None:
        return None, (
            f"no difference: the baseline {name} has no result with this protocol, its settings "
            "and these data"
        )
    try:
        found = difference(arm.runs, base.runs)
    except ValueError as error:
        return None, str(error)
    pairs, most = len(found.by_seed), max(len(arm.runs), len(base.runs))
    return found, "" if pairs == most else f"over the {pairs} of {most} seeds that both rows have"


def _apart(result: Result, others: Sequence[Block]) -> str:
    """Say what keeps a block from being compared with the nearest one before it."""

    def likeness(other: Result) -> tuple[bool, bool]:
        alike = other.protocol.name == result.protocol.name
        return (other.data.dataset == result.data.dataset, alike)

    number, block = max(enumerate(others, 1), key=lambda each: likeness(each[1].first))
    other = block.first
    reasons = []
    if other.data.dataset != result.data.dataset:
        reasons.append(f"dataset: {other.data.dataset} vs {result.data.dataset}")
    elif other.data.fingerprint != result.data.fingerprint:
        reasons.append(f"files of {result.data.dataset}: {_data(other)} vs {_data(result)}")
    if other.protocol.hash != result.protocol.hash or other.protocol.name != result.protocol.name:
        reasons += _settings(other.protocol, result.protocol)
    if other.headline != result.headline:
        reasons.append(f"score: {other.headline} vs {result.headline}")
    place = f"{other.data.dataset}, {other.protocol.name}, hash {other.protocol.hash}"
    return printable(f"Not comparable with table {number} ({place}): {'; '.join(reasons)}.")


def _data(result: Result) -> str:
    data = result.data
    counts = ", ".join(f"{data.counts.get(each, '?')} {each}" for each in (data.train, data.val))
    return f"{counts} (fingerprint {data.fingerprint[:12]})"


def _settings(one: ProtocolInfo, other: ProtocolInfo) -> list[str]:
    """Return what differs between two protocols, setting by setting where they have one name."""
    if one.name != other.name:
        return [f"protocol: {one.name} vs {other.name}"]
    differing = []
    if one.version != other.version:
        differing.append(f"version: {one.version} vs {other.version}")
    left, right = flat(one.settings), flat(other.settings)
    for key in dict.fromkeys([*left, *right]):
        a, b = (_shown(each[key]) if key in each else "none" for each in (left, right))
        if a != b:
            differing.append(f"{key}: {a} vs {b}")
    return differing or [f"hash: {one.hash} vs {other.hash}"]


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return settings by dotted name, as the command line takes them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, above if key == "init_args" else f"{name}.")
        else:
            found[name] = value
    return found


def _shown(value: Any) -> str:
    return "none" if value is None else printable(str(value))
