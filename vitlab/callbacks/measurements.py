"""Scores of an encoder over a run: RUN/measurements.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from vitlab.atomic_io import write_json


@dataclass(frozen=True)
class Measurement:
    """Scores of one encoder at one time.

    Attributes:
        encoder: "pixels", "untrained" or "trained".
        epoch: epochs trained.
        step: optimizer steps taken.
        scores: percent, by TensorBoard tag.
        features: patch statistics in units of their own, by TensorBoard tag.
        warning: a sentence on training so far, such as a falling mIoU; "" for none.
    """

    encoder: str
    epoch: int
    step: int
    scores: dict[str, float] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)
    warning: str = ""


class MeasurementLog:
    """The measurements of a run, in order; callbacks that measure the same encoder share one."""

    def __init__(self) -> None:
        self.rows: list[Measurement] = []

    def add(self, row: Measurement) -> None:
        """Append a measurement, or add its scores to those of the same encoder and epoch."""
        for known in self.rows:
            if (known.encoder, known.epoch) == (row.encoder, row.epoch):
                known.scores.update(row.scores)
                return
        self.rows.append(row)

    def best(self, tag: str) -> float:
        """Return the best score of the trained encoder so far; -1 for none."""
        trained = [row for row in self.rows if row.encoder == "trained"]
        return max((row.scores.get(tag, -1.0) for row in trained), default=-1.0)

    def plain(self) -> list[dict[str, Any]]:
        """Return the rows as plain values."""
        return [asdict(row) for row in self.rows]

    @rank_zero_only
    def write(self, trainer: Trainer) -> None:
        """Write all measurements so far into the folder of the run."""
        write_json(Path(trainer.default_root_dir) / "measurements.json", self.plain())

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements so far."""
        return {"measurements": self.plain()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the measurements of an earlier part of the run."""
        self.rows[:] = [Measurement(**row) for row in state["measurements"]]
