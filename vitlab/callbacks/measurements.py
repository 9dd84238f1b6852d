"""Scores of an encoder over a run, RUN/measurements.json, and what callbacks that measure share."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NotRequired

from lightning import LightningModule, Trainer
from pydantic import BeforeValidator
from typing_extensions import TypedDict  # for pydantic; from 3.12 on it takes that of typing

from vitlab.atomic_io import read_json_as, write_json
from vitlab.callbacks.checkpoint import save_checkpoint
from vitlab.callbacks.pretraining_callback import PretrainingCallback
from vitlab.data import VisionDataModule
from vitlab.errors import check_least
from vitlab.objectives import Objective
from vitlab.probes import InferenceConfig
from vitlab.progress import ProgressBar
from vitlab.run.module import vision_data

ROWS = "measurements.json"
# a score without a value is null in the file
Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Measurement(TypedDict):
    """Scores of one encoder at one time, a row of RUN/measurements.json.

    Attributes:
        encoder: "pixels", "untrained" or "trained".
        epoch: epochs trained.
        step: optimizer steps taken.
        scores: percent, by TensorBoard tag.
        features: patch statistics in units of their own, by TensorBoard tag.
        warning: a sentence on training so far, such as a falling mIoU; "" for none.
        weights: fingerprint of the encoder, where `vitlab measure` has measured it.
    """

    encoder: str
    epoch: int
    step: int
    scores: dict[str, Score]
    features: dict[str, Score]
    warning: str
    weights: NotRequired[str]


def finite(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that have a value: mIoU has none where all pixels are void."""
    return {tag: value for tag, value in scores.items() if math.isfinite(value)}


def distinct(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores without the mean of a single segmentation set, which is that of the set."""
    sets = sum(tag.startswith("miou/") for tag in scores)
    return {tag: value for tag, value in scores.items() if sets > 2 or tag != "miou/mean"}


def read_measurements(folder: Path) -> list[Measurement]:
    """Return what was measured in a folder so far."""
    return read_json_as(folder / ROWS, list[Measurement]) if (folder / ROWS).exists() else []


class EvaluationCallback(PretrainingCallback, ABC):
    """Measures every so many epochs, and after the last.

    Attributes:
        rows: measurements of the run so far; callbacks that measure the same encoder share them.
        seconds: that all measurements of this process have taken together.
        durations: of those of the encoder that trains, untrained first.
        idle: whether the objective has nothing to measure.
    """

    def __init__(self, section: str, every_n_epochs: int, batch_size: int, num_workers: int):
        self.every_n_epochs = every_n_epochs
        self.batch_size, self.num_workers = batch_size, num_workers
        self.rows: list[Measurement] = []
        self.seconds, self.checked, self.idle = 0.0, False, False
        self.durations: list[float] = []
        check_least(self, f"{section}.", {"every_n_epochs": 0, "batch_size": 1, "num_workers": 0})

    @abstractmethod
    def check(self, objective: Objective, data: VisionDataModule | None) -> list[str]:
        """Refuse, before any work, what cannot be measured.

        Returns:
            What makes scores poor, in sentences.

        Raises:
            InputError: the reason.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, where no plan of `vitlab fit` has done so."""
        super().setup(trainer, pl_module, stage)
        self.check_once(pl_module.objective, vision_data(trainer))  # type: ignore[arg-type]

    def check_once(self, objective: Objective, data: VisionDataModule | None) -> list[str]:
        """Check, which reads files, unless that was done."""
        done, self.checked = self.checked, True
        return [] if done else self.check(objective, data)

    def is_due(self, trainer: Trainer) -> bool:
        """Whether the epoch that ends now is measured: every so many (0: none), and the last."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop
        return last or (self.every_n_epochs > 0 and epoch % self.every_n_epochs == 0)

    @contextmanager
    def timed(self, encoder: str) -> Iterator[None]:
        """Show and count the time of the measurement of an encoder."""
        began = time.monotonic()
        with ProgressBar(f"{encoder} encoder"):
            yield
        taken = time.monotonic() - began
        self.seconds += taken
        if encoder != "pixels":
            self.durations.append(taken)

    @property
    def seconds_each(self) -> float:
        """Seconds of a measurement to come: the mean, without the first, if there are others."""
        known = self.durations[1:] or self.durations
        return sum(known) / max(1, len(known))

    def measurements_left(self, trainer: Trainer) -> int:
        """Return how many of the epochs from the running one on are measured."""
        epoch, last = trainer.current_epoch, trainer.max_epochs or 0
        every = self.every_n_epochs or last or 1
        return 0 if self.idle else last // every - epoch // every + (last % every > 0)

    def newest(self) -> list[tuple[str, float]]:
        """Return the newest scores of the encoder that trains, by tag."""
        trained = [row["scores"] for row in self.rows if row["encoder"] == "trained"]
        return list(distinct(trained[-1]).items()) if trained else []

    def inference(self, trainer: Trainer) -> InferenceConfig:
        """Return device, precision, batch size and workers of forward passes."""
        device, precision = trainer.strategy.root_device, trainer.precision_plugin.forward_context
        return InferenceConfig(device, self.batch_size, self.num_workers, precision)

    def row(self, trainer: Trainer, encoder: str, epoch: int) -> Measurement:
        """Return the measurement of an encoder at an epoch, a new one where there is none."""
        for known in self.rows:
            if (known["encoder"], known["epoch"]) == (encoder, epoch):
                return known
        step = trainer.global_step
        new = Measurement(
            encoder=encoder, epoch=epoch, step=step, scores={}, features={}, warning=""
        )
        self.rows.append(new)
        return new

    def write(self, trainer: Trainer) -> None:
        """Write all measurements so far into the folder of the run."""
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / ROWS, self.rows)

    def keep_best(self, trainer: Trainer, row: Measurement, tag: str, name: str) -> None:
        """Write a checkpoint if a score is higher in this row than in any before."""
        trained = [other for other in self.rows if other["encoder"] == "trained"]
        before = [finite(other["scores"]).get(tag, -1.0) for other in trained if other is not row]
        now = finite(row["scores"]).get(tag, -1.0)
        # decided on one rank: others may differ in the last bit, and saving takes all of them
        if trainer.strategy.broadcast(now > max(before, default=-1.0)):
            save_checkpoint(trainer, name)

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements so far."""
        return {"measurements": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the measurements of an earlier part of the run."""
        self.rows[:] = state_dict["measurements"]
