"""One line for a whole run: epoch, step, time left, speed, loss, newest scores."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningBar

from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.progress import DISPLAY, ProgressBar, duration

REFRESH = 0.2  # seconds between two lines


class RunLine(ProgressBar):
    """The line of a run, within which measurements have lines of their own."""

    line = "before the first step"

    def text(self) -> str:
        """Return the line."""
        return self.line


class RunProgress(LightningBar):
    """Shows the progress of the run in one line: under a bar on a terminal, else at intervals.

    The time left is that of all steps and measurements to come, each at its mean so far.

    Args:
        measuring: callbacks that measure at the ends of epochs.
        throughput: knows the share of time that is spent waiting for data, which is left out
            without it.
    """

    def __init__(
        self,
        measuring: Sequence[EvaluationCallback] = (),
        throughput: ThroughputMonitor | None = None,
    ):
        super().__init__()
        self.measuring, self.throughput = measuring, throughput
        self.is_enabled, self.work = True, RunLine("")
        self.began = self.drawn = 0.0
        self.first_step = 0

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self.is_enabled = False

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the line before the baselines are measured."""
        self.work = RunLine("")
        if self.is_enabled:
            DISPLAY.begin(self.work)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Renew the line after each optimizer step but the first, behind which the clock starts.

        The first one of a process is longer: caches are empty.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        now = time.monotonic()
        if not self.began:
            self.began = now - sum(each.seconds for each in self.measuring)
            self.first_step = trainer.global_step
        elif now - self.drawn >= REFRESH:
            self.drawn = now
            self.renew(trainer, pl_module)
            DISPLAY.tell()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the last line."""
        DISPLAY.end(self.work)
        if self.began and trainer.global_step > self.first_step and self.is_enabled:
            self.renew(trainer, pl_module)
            print(self.work.line, file=sys.stderr, flush=True)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was found."""
        DISPLAY.end(self.work)

    def renew(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the line anew."""
        progress, step = pl_module.progress, trainer.global_step
        self.work.done, self.work.total = step, progress.steps
        measured = sum(each.seconds for each in self.measuring)
        seconds = (time.monotonic() - self.began - measured) / (step - self.first_step)
        left, unknown = seconds * (progress.steps - step), 0
        for each in self.measuring:
            times = each.measurements_left(trainer)
            left += each.seconds_each * times
            unknown += times if not each.seconds_each else 0
        epoch = min(step * progress.epochs // progress.steps + 1, progress.epochs)
        speed, waiting = self.throughput, []
        if speed and speed.seconds:
            waiting.append(f"{100 * speed.seconds_waited / speed.seconds:.0f} % waiting for data")
        parts = [
            f"epoch {epoch}/{progress.epochs}",
            f"step {step}/{progress.steps}",
            f"{duration(left)} left{f' without {unknown} measurements' if unknown else ''}",
            f"{progress.batch_size / seconds:.3g} images/s",
            *waiting,
            *(f"{name} {float(value):.3f}" for name, value in trainer.progress_bar_metrics.items()),
            *(f"{name} {value:.1f}" for each in self.measuring for name, value in each.newest()),
        ]
        self.work.line = ", ".join(dict.fromkeys(parts))
