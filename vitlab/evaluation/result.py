"""One evaluation on disk: `result.json` says how its numbers were made, `evidence` proves them."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from vitlab.atomic_io import write_bytes, write_json
from vitlab.evaluation.counts import Counts, pack, unpack
from vitlab.evaluation.fields import decode, plain
from vitlab.evaluation.registry import protocol_hash
from vitlab.probes.metrics import IoUCounts, PerImageCounts

RESULT = "result.json"
EVIDENCE = "evidence.safetensors"
FORMAT = 1  # raised when an older vitlab could not read the file
MARK = "vitlab_result"  # its key
ROUNDING = 1e-6  # percent between a score and the same from the counts, summed elsewhere


@dataclass(frozen=True)
class ProtocolInfo:
    """The protocol of a number.

    Attributes:
        name: of its file.
        version: of its file.
        settings: all that decides the number, every default written out.
        hash: stands for name, version and settings.
        changed: settings that differ from the published ones, [published, used] by dotted name.
    """

    name: str
    version: int
    settings: dict[str, Any]
    hash: str
    changed: dict[str, tuple[Any, Any]]

    def __post_init__(self) -> None:
        pairs = {key: (plain(old), plain(new)) for key, (old, new) in self.changed.items()}
        object.__setattr__(self, "settings", plain(self.settings))
        object.__setattr__(self, "changed", pairs)


@dataclass(frozen=True)
class WeightsInfo:
    """The encoder of a number.

    Attributes:
        path: of the weights, as it was given.
        hash: of the weights.
        encoder: its arguments.
        family: whose weights they are.
        branch: which model of the file; "" if it had no name.
    """

    path: str
    hash: str
    encoder: dict[str, Any]
    family: str
    branch: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", plain(self.encoder))


@dataclass(frozen=True)
class DataInfo:
    """The images of a number.

    Attributes:
        dataset: its class.
        train: split that was learned from.
        val: split that is scored.
        counts: images of each split.
        fingerprint: stands for the files and labels of both splits.
        root: folder they were read from.
    """

    dataset: str
    train: str
    val: str
    counts: dict[str, int]
    fingerprint: str
    root: str


@dataclass(frozen=True)
class Result:
    """The numbers of one evaluation, and all that made them. What is NaN is None.

    Attributes:
        protocol: how it was measured.
        weights: of what.
        data: on what.
        headline: the score that it is quoted by, a key of scores.
        scores: percent, by name; None where there is none.
        interval: of the headline in percent, 95 % by the percentile bootstrap over test images.
        classes: IoU of each class in percent; None in neither truth nor prediction; empty where
            the headline is no mIoU.
        tried: percent of every head, layer or k that was tried, by name.
        chosen: the one behind the headline, a key of tried; "" where there was one only.
        chosen_on: images that decided it: "" none, "held out" of the training split, or "val",
            the reported ones.
        seed: of everything random in the evaluation.
        seconds: that it took.
        environment: command, commit, versions, hardware.
        evidence: SHA-256 of the file of counts beside it; `write` fills it in.
    """

    protocol: ProtocolInfo
    weights: WeightsInfo
    data: DataInfo
    headline: str
    scores: dict[str, float | None]
    interval: tuple[float, float]
    classes: dict[str, float | None]
    tried: dict[str, float | None]
    chosen: str
    chosen_on: Literal["", "held out", "val"]
    seed: int
    seconds: float
    environment: dict[str, Any]
    evidence: str = ""

    def __post_init__(self) -> None:
        for name in ("scores", "classes", "tried", "environment"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.scores.get(self.headline) is None:
            raise ValueError(f"the headline {self.headline!r} has no score among {self.scores}")
        if not self.interval[0] <= self.interval[1]:
            raise ValueError(f"{self.interval} is no interval")
        if self.chosen and self.chosen not in self.tried:
            raise ValueError(f"{self.chosen!r} was chosen, but not tried")

    @property
    def value(self) -> float:
        """The headline in percent."""
        value = self.scores[self.headline]
        assert value is not None
        return value

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read a result.

        Args:
            path: its folder or its JSON file.

        Raises:
            ValueError: there is none, it is damaged or edited, or of another program or version.
        """
        file = path / RESULT if path.is_dir() else path
        if not file.is_file():
            half = (file.parent / EVIDENCE).exists()
            why = ": an evaluation was interrupted there; run it again" if half else ""
            raise ValueError(
                f"there is no {file}{why or '; give the folder of a `vitlab evaluate`'}"
            )
        try:
            content = json.loads(file.read_text("utf-8"), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged or no JSON: {error}; evaluate again with --overwrite"
            ) from error
        if not isinstance(content, dict) or MARK not in content:
            raise ValueError(f"{file} is not a result of `vitlab evaluate`, which says {MARK!r}")
        version = content.pop(MARK)
        if version != FORMAT:
            raise ValueError(
                f"{file} has format {version!r}, this vitlab reads {FORMAT}; read it with the "
                "vitlab that wrote it, or evaluate again"
            )
        try:
            result = decode(cls, content)
            _check(result)
            return result
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged or was edited: {error}; evaluate again with --overwrite"
            ) from error

    def write(
        self, folder: Path, evidence: PerImageCounts, names: Sequence[str], overwrite: bool = False
    ) -> "Result":
        """Write the result and its counts, the result last: what can be read is whole.

        Args:
            folder: one for each evaluation.
            evidence: counts of each image behind the headline.
            names: of these images.
            overwrite: whether to replace a result that is there.

        Returns:
            The result as it was written, with the hash of the counts.

        Raises:
            ValueError: there is a result already.
        """
        refuse_overwriting(folder, overwrite)
        assert abs(evidence.value - self.value) < ROUNDING, "a headline is that of its evidence"
        content = pack(evidence, names)
        written = replace(self, evidence=hashlib.sha256(content).hexdigest())
        (folder / RESULT).unlink(missing_ok=True)  # never an old result beside new counts
        write_bytes(folder / EVIDENCE, content)
        own = {each.name: getattr(written, each.name) for each in fields(written)}
        nested = {key: asdict(own[key]) for key in ("protocol", "weights", "data")}
        write_json(folder / RESULT, {MARK: FORMAT, **own, **nested})
        return written


def refuse_overwriting(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that holds a result; to be asked before any long work.

    Raises:
        ValueError: there is a result, and it is not to be replaced.
    """
    if (folder / RESULT).exists() and not overwrite:
        raise ValueError(
            f"{folder} already holds a result, which is not overwritten unless told; choose "
            "another folder with --out DIR, or --overwrite"
        )


def read_counts(path: Path, result: Result) -> Counts | None:
    """Read the counts of a result; None where they are not beside it.

    Args:
        path: folder of the result, or its JSON file.
        result: what was read there.

    Raises:
        ValueError: they are damaged, or those of another result, or say something else.
    """
    file = (path if path.is_dir() else path.parent) / EVIDENCE
    if not file.is_file():
        return None
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != result.evidence:
        raise ValueError(
            f"{file} is not the one that the result beside it was made of: it is damaged or was "
            "replaced; copy both files again, or evaluate again with --overwrite"
        )
    try:
        counts = unpack(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no counts: {error}; evaluate again") from error
    if why := _disagreement(counts, result):
        raise ValueError(f"{file} {why}: the result was edited; evaluate again")
    return counts


def _check(result: Result) -> None:
    """Refuse what an evaluation would not have written.

    Raises:
        ValueError: what that is.
    """
    used, (low, high) = result.protocol, result.interval
    stands = protocol_hash(used.name, used.version, used.settings)
    if used.hash != stands:
        raise ValueError(
            f"protocol.hash is {used.hash!r}, but name, version and settings have {stands!r}"
        )
    if not -ROUNDING <= low <= high <= 100 + ROUNDING:
        raise ValueError(f"interval [{low}, {high}] is not within 0 and 100 %")


def _disagreement(counts: Counts, result: Result) -> str:
    """Say in what counts and a result differ; "" if in nothing that both of them say."""
    evidence, data = counts.evidence, result.data
    # a protocol may score a part of the split, but no more than all of it
    images = data.counts.get(data.val)
    if images is not None and len(evidence) > images:
        return f"has {len(evidence)} images, its result says {images} in {data.val!r}"
    if not abs(evidence.value - result.value) < ROUNDING:
        return f"gives {evidence.value:.6g} %, its result says {result.value:.6g} %"
    ious = evidence.iou().tolist() if isinstance(evidence, IoUCounts) else []
    if not bool(ious) <= len(result.classes) <= len(ious):
        return f"has {len(ious)} classes, its result names {len(result.classes)}"
    all_named = len(ious) == len(result.classes)  # else some share a name, which are one entry
    for place, (name, said) in enumerate(result.classes.items()):
        if not any(_alike(said, iou) for iou in (ious[place : place + 1] if all_named else ious)):
            return f"gives another IoU of {name!r} than its result"
    return ""


def _alike(said: float | None, counted: float) -> bool:
    """Whether a percentage of a result is that of its counts; None stands for NaN."""
    if said is None or math.isnan(counted):
        return said is None and math.isnan(counted)
    return abs(said - counted) < ROUNDING


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")
