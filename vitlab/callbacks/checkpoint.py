"""The checkpoints of a run: when they are written, and how, so that one of them is always good."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from vitlab.atomic_io import unwritable
from vitlab.training import run_dir

PART = ".part"  # of a file that is being written


class CheckpointCallback(Checkpoint):
    """Writes last.ckpt at the end of each epoch and, within long ones, by the clock.

    What was last.ckpt becomes previous.ckpt: if one of the two is damaged, the other is good.

    Args:
        minutes: between checkpoints within an epoch; 0 for none but those at its end.
        every_n_epochs: epochs between the checkpoints that are kept besides, in RUN/checkpoints; 0 for none.
        keep: how many of these; the oldest is removed.
    """

    def __init__(self, minutes: float = 15.0, every_n_epochs: int = 0, keep: int = 5):
        for name, value, least in (
            ("minutes", minutes, 0),
            ("every_n_epochs", every_n_epochs, 0),
            ("keep", keep, 1),
        ):
            if value < least:
                raise ValueError(f"checkpoint.{name} {value} is too small; {least} is the least")
        self.minutes, self.every_n_epochs, self.keep = minutes, every_n_epochs, keep
        self.saved = time.monotonic()
        self.step = -1  # of the newest checkpoint
        self.amid: bool | None = None  # of the one being written, if any; see `save`

    @property
    def due(self) -> bool:
        """Whether it is time, by the clock of this process."""
        return bool(self.minutes) and time.monotonic() - self.saved > 60 * self.minutes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.saved = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was trained and, as the last of the callbacks, measured."""
        epoch = trainer.current_epoch + 1
        # before the one to continue from: a run that dies between the two writes both again
        if self.every_n_epochs and epoch % self.every_n_epochs == 0:
            self.save(trainer, f"{run_dir.KEPT}/epoch_{epoch:04d}.ckpt")
            if trainer.is_global_zero:
                for old in run_dir.kept_checkpoints(Path(trainer.default_root_dir))[self.keep :]:
                    old.unlink()
        self.save(trainer, run_dir.LAST)

    def save(self, trainer: Trainer, name: str = run_dir.LAST, amid: bool = False) -> None:
        """Write a checkpoint, on all ranks at the same step.

        Args:
            trainer: between two steps.
            name: of the file, below the folder of the run.
            amid: whether the epoch goes on, or its measurements are still to come.
        """
        for logger in trainer.loggers:
            logger.save()  # what is behind the checkpoint will not be logged again
        self.amid = amid
        trainer.save_checkpoint(Path(trainer.default_root_dir) / name, weights_only=False)
        self.amid = None
        if name == run_dir.LAST:
            self.saved, self.step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have Lightning stand between two micro-batches of an epoch.

        It knows only what a checkpoint within a batch or after all of an epoch's callbacks is.
        """
        if self.amid is None:
            return
        loops = checkpoint["loops"]["fit_loop"]
        batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
        batches["is_last_batch"] = not self.amid
        if not self.amid:
            return
        for count in (batches["total"], batches["current"]):
            count["ready"] = count["started"] = count["processed"] = count["completed"]
        for count in (epochs["total"], epochs["current"]):
            count["processed"] = count["completed"]


def keep(trainer: Trainer, name: str) -> None:
    """Write a checkpoint of the end of an epoch, below the folder of the run."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, CheckpointCallback):
            callback.save(trainer, name)
            return
    trainer.save_checkpoint(Path(trainer.default_root_dir) / name, weights_only=False)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint at once or not at all, as the newest of two generations."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it aside, have the disk confirm it, and only then give it its name.

        Raises:
            OSError: the disk is full, or fails; what was there before is still there.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}{PART}")
        try:
            _write(checkpoint, aside)
            if path.name == run_dir.LAST and path.exists():
                path.replace(path.with_name(run_dir.PREVIOUS))
            aside.replace(path)
            _synchronize(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            aside.unlink(missing_ok=True)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's own, of a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _synchronize(folder: Path) -> None:
    """Have the disk confirm the names in a folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
