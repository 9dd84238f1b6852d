"""One evaluation on disk: `result.json` with the numbers and their origin, and per-image counts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from torch import Tensor

from vitlab.atomic_io import plain, read_json_as, write_bytes, write_json
from vitlab.errors import InputError
from vitlab.probes.logistic import Convergence
from vitlab.probes.metrics import AccuracyCounts, IoUCounts, PerImageCounts

RESULT = "result.json"
COUNTS = "counts.safetensors"
EVENTS = ".evaluation"  # ending of our TensorBoard files


@dataclass(frozen=True)
class ProtocolInfo:
    """The protocol of a result.

    Attributes:
        settings: all that decides the number, every default written out.
        hash: of name, version and settings.
        changed: settings that differ from the published ones, [published, used] by dotted name.
    """

    name: str
    version: int
    settings: dict[str, Any]
    hash: str
    changed: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class WeightsInfo:
    """The encoder of a result: path, hash and format of the weights, and its arguments.

    Attributes:
        branch: model of a file with several, such as "teacher"; else "".
    """

    path: str
    hash: str
    encoder: dict[str, Any]
    family: str
    branch: str


@dataclass(frozen=True)
class DataInfo:
    """The images of a result: both splits and how many images they have.

    Attributes:
        dataset: its class; the name of its folder where that is one of one's own.
        fingerprint: of the files and labels of both splits.
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
    """The numbers of one evaluation, and all that made them. Percent that are NaN are None.

    Attributes:
        headline: the score that it is quoted by, a key of scores.
        interval: of the headline, 95 % by the percentile bootstrap over test images.
        classes: IoU of each class; None in neither truth nor prediction; empty for top-1.
        tried: score of every head, layer or k that was tried.
        chosen: the one behind the headline, a key of tried; "" where there was one only.
        chosen_on: images that decided it: "" none, "held out" of the training split, or "val",
            the reported ones.
        seed: of everything random in the evaluation.
        environment: command, commit, versions, hardware.
        fits: how each fit to convergence has ended, by name; the headline's is the last.
        remarks: what makes the score poor, in sentences.
        vitlab_result: format of the file.
    """

    __pydantic_config__ = {"extra": "forbid"}  # keys that a file may not have  # noqa: RUF012

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
    fits: dict[str, Convergence] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    vitlab_result: Literal[1] = 1

    @property
    def value(self) -> float:
        """The headline in percent."""
        value = self.scores[self.headline]
        assert value is not None
        return value

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """Read the result in a folder.

        Raises:
            InputError: no result, a damaged one, or one of another version of vitlab.
        """
        try:
            return read_json_as(folder / RESULT, cls)
        except FileNotFoundError as error:
            raise InputError(
                f"there is no {folder / RESULT}; give the folder of a `vitlab evaluate` that has "
                "ended",
                field=RESULT,
            ) from error

    def write(
        self, folder: Path, counts: PerImageCounts, names: Sequence[str], overwrite: bool = False
    ) -> None:
        """Write the result and its counts, the result last: a folder that has one is complete.

        Args:
            folder: one for each evaluation.
            counts: of each image behind the headline.
            names: of these images.
            overwrite: whether to replace a result that is there.

        Raises:
            InputError: an existing result.
        """
        refuse_overwriting(folder, overwrite)
        tensors = {name: each.contiguous().clone() for name, each in counts.tensors().items()}
        letters = json.dumps(list(names)).encode("ascii")  # escapes what is no Unicode
        tensors["names"] = torch.frombuffer(bytearray(letters), dtype=torch.uint8)
        (folder / RESULT).unlink(missing_ok=True)  # never an old result beside new counts
        write_bytes(folder / COUNTS, safetensors.torch.save(tensors))
        write_json(folder / RESULT, asdict(self))

    def write_events(self, folder: Path, sheet: UInt8[Tensor, "3 h w"] | None = None) -> None:
        """Write scores, origin and the sheet of pictures for TensorBoard; replace older ones."""
        from torch.utils.tensorboard import SummaryWriter  # not for those who only read

        for old in folder.glob(f"events.out.tfevents.*{EVENTS}"):
            old.unlink()
        place = f"{self.data.dataset}/{self.protocol.name}"
        classes = {f"iou/{name}": score for name, score in self.classes.items()}
        origin = {"interval": self.interval, "changed": self.protocol.changed}
        origin |= {"weights": asdict(self.weights), "data": asdict(self.data)}
        with SummaryWriter(str(folder), filename_suffix=EVENTS) as writer:
            for name, score in {**self.scores, **classes}.items():
                if score is not None:
                    writer.add_scalar(f"{place}/{name}", score)
            writer.add_text(place, f"```\n{json.dumps(plain(origin), indent=1)}\n```")
            if sheet is not None:
                writer.add_image(f"{place}/predictions", sheet)


class NamedCounts(NamedTuple):
    """What was counted on each of n test images, and their names."""

    counts: PerImageCounts
    names: tuple[str, ...]


def read_counts(folder: Path) -> NamedCounts | None:
    """Read the counts beside a result; None where they are missing.

    Raises:
        InputError: a damaged file.
    """
    file = folder / COUNTS
    if not file.is_file():
        return None
    try:
        tensors = safetensors.torch.load(file.read_bytes())
        names = tuple(json.loads(tensors.pop("names").numpy().tobytes()))
        kind = AccuracyCounts if "correct" in tensors else IoUCounts
        return NamedCounts(kind(**tensors), names)
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}; evaluate again", field=COUNTS) from error


def refuse_overwriting(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that holds a result; to be asked before any long work.

    Raises:
        InputError: an existing result that is not to be replaced.
    """
    if (folder / RESULT).exists() and not overwrite:
        raise InputError(
            f"{folder} already holds a result; choose another folder with --out DIR, or replace it "
            "with --overwrite",
            field="--out",
        )
