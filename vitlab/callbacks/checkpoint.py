"""Checkpoints of a run: when they are written, and writing that always leaves a good one."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from vitlab.atomic_io import replacing
from vitlab.errors import InputError, check_least
from vitlab.progress import ProgressBar
from vitlab.run import run_dir
from vitlab.run.lightning_compat import set_position_in_epoch


class CheckpointCallback(Checkpoint):
    """Writes last.ckpt at the end of each epoch and, within long ones, by the clock.

    The last.ckpt of before becomes previous.ckpt: if one of the two is damaged, the other is good.

    Args:
        minutes: between checkpoints within an epoch; 0 for none but those at its end.
        every_n_epochs: epochs between the checkpoints that are kept in RUN/checkpoints; 0 for none.
        keep: number of checkpoints kept there; the oldest is removed.
    """

    def __init__(self, minutes: float = 15.0, every_n_epochs: int = 0, keep: int = 5):
        self.minutes, self.every_n_epochs, self.keep = minutes, every_n_epochs, keep
        check_least(self, "checkpoint.", {"minutes": 0, "every_n_epochs": 0, "keep": 1})
        self.saved = time.monotonic()
        self.step = -1  # of the newest checkpoint

    @property
    def due(self) -> bool:
        """Whether it is time, by the clock of this process."""
        return bool(self.minutes) and time.monotonic() - self.saved > 60 * self.minutes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the trainer write checkpoints at once or not at all.

        Raises:
            InputError: the trainer has a way of its own.
        """
        given = trainer.strategy.checkpoint_io
        if type(given) not in (TorchCheckpointIO, AtomicCheckpointIO):
            raise InputError(
                f"trainer.plugins has {type(given).__name__}, but a run can only be continued from "
                "checkpoints that are written at once or not at all; leave it out",
                field="trainer.plugins",
            )
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.saved = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's checkpoints, after all other callbacks, whose state they hold."""
        epoch = trainer.current_epoch + 1
        # before the one to continue from: a run that dies between the two writes both again
        if self.every_n_epochs and epoch % self.every_n_epochs == 0:
            save_checkpoint(trainer, f"{run_dir.KEPT}/epoch_{epoch:04d}.ckpt")
            if trainer.is_global_zero:
                folder = Path(trainer.default_root_dir)
                for old in run_dir.kept_checkpoints(folder)[self.keep :]:
                    old.unlink()
        self.save(trainer)

    def save(self, trainer: Trainer, mid_epoch: bool = False) -> None:
        """Write last.ckpt, on all ranks at the same step; see `save_checkpoint`."""
        save_checkpoint(trainer, run_dir.LAST, mid_epoch)
        self.saved, self.step = time.monotonic(), trainer.global_step


def save_checkpoint(trainer: Trainer, name: str, mid_epoch: bool = False) -> None:
    """Write a checkpoint between two steps.

    Args:
        trainer: of the run, on all ranks at the same step.
        name: of the file, below the folder of the run.
        mid_epoch: whether the epoch goes on, or its measurements are still to come.
    """
    for logger in trainer.loggers:
        logger.save()  # points before the checkpoint will not be logged again
    ours = isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    options = {"mid_epoch": mid_epoch} if ours else None
    path = Path(trainer.default_root_dir) / name
    trainer.save_checkpoint(path, weights_only=False, storage_options=options)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint at once or not at all, as the newest of two generations."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it aside, have the disk confirm it, and only then give it its name.

        Args:
            checkpoint: as Lightning makes it.
            path: of the file.
            storage_options: with "mid_epoch", see the function `save_checkpoint`; else None.

        Raises:
            OSError: the disk is full, or fails; what was there before is still there.
        """
        if storage_options is not None:
            set_position_in_epoch(checkpoint, storage_options["mid_epoch"])
        path = Path(path)
        with (
            ProgressBar(f"writing {path.name}"),
            replacing(path) as aside,
            aside.open("wb") as file,
        ):
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, of a write that failed
                raise (error.__context__ or error) from None
            file.flush()
            os.fsync(file.fileno())
            if path.name == run_dir.LAST and path.exists():
                path.replace(path.with_name(run_dir.PREVIOUS))
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the disk confirms the names as well
        os.close(folder)
