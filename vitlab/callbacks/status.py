"""RUN/status.json: how far a run is, for `vitlab runs` and other readers."""

import math
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from vitlab.atomic_io import write_json
from vitlab.callbacks.collapse_monitor import Reported, read_diagnoses
from vitlab.callbacks.preemption import Preempted
from vitlab.callbacks.pretraining_callback import PretrainingCallback
from vitlab.callbacks.rank_watchdog import is_lost_rank
from vitlab.cluster.runs import STATUS, RunStatus
from vitlab.errors import InputError

INTERVAL = 15.0  # seconds between two writings


class StatusWriter(PretrainingCallback):
    """Writes RUN/status.json on the first rank: at the start, every 15 s, and at the end."""

    def __init__(self) -> None:
        self.status = RunStatus("running", began=time.time())
        self.written = -math.inf
        self.reported: list[Reported] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that the run is alive, before the baselines are measured."""
        self.write(trainer, steps=pl_module.progress.steps)  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: Trainer, *of_batch: object) -> None:
        """Write the step, when some time has passed."""
        if time.monotonic() - self.written > INTERVAL:
            self.write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *of_run: object) -> None:
        """Write that an epoch is complete."""
        self.write(trainer, epoch=trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, *of_run: object) -> None:
        """Write that the run is complete."""
        self.write(trainer, state="finished", epoch=trainer.current_epoch)

    def on_exception(self, trainer: Trainer, module: object, exception: BaseException) -> None:
        """Write the reason of an early end."""
        asked = isinstance(exception, Preempted | KeyboardInterrupt | SystemExit)
        reason = (str(exception) or type(exception).__name__).splitlines()[0]
        if is_lost_rank(exception):
            reason = "another rank is gone or does not answer"  # gloo's own text is of no help
        self.write(trainer, state="stopped" if asked else "failed", reason=reason)

    def write(self, trainer: Trainer, **known: Any) -> None:
        """Replace the file."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        with suppress(InputError):  # refused at the start; written over since
            self.reported = read_diagnoses(folder)[-1:]
        current = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "epochs": trainer.max_epochs or 0,
            "metrics": {  # JSON has no infinity
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if math.isfinite(value)
            },
            "warning": "".join(f"step {row['step']}: {row['sentence']}" for row in self.reported),
            "updated": time.time(),
        }
        self.status = replace(self.status, **{**current, **known})
        self.written = time.monotonic()
        try:
            write_json(folder / STATUS, asdict(self.status))
        except OSError as error:  # a checkpoint that cannot be written ends a run, not this
            warnings.warn(f"{STATUS} is not up to date: {error}", stacklevel=2)
