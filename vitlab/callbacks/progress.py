"""One line for a whole run: epoch, step, time left, speed, loss, newest scores."""

import time
from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn

from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.progress import PlainLine, duration
from vitlab.terminal import console

BAR = 16  # columns
REFRESH = 0.2  # seconds between two lines on a terminal


class RunProgress(ProgressBar):
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
        self.is_enabled = True
        self.bars: Progress | None = None
        self.line = PlainLine()
        self.began = self.drawn = 0.0
        self.first_step = 0

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self.is_enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show an empty bar on a terminal."""
        on = console(stderr=True)
        if self.is_enabled and on.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            self.bars = Progress(BarColumn(BAR), text, console=on)
            self.bars.add_task("", total=pl_module.progress.steps, completed=trainer.global_step)
            self.bars.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the line after each optimizer step but the first, behind which the clock starts.

        The first one of a process is longer: caches are empty.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        now = time.monotonic()
        if not self.began:
            self.began = now - sum(each.seconds for each in self.measuring)
            self.first_step = trainer.global_step
        elif now - self.drawn >= REFRESH if self.bars else self.line.is_due():
            self.drawn = now
            self.show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the last line."""
        if self.began and trainer.global_step > self.first_step:
            self.show(trainer, pl_module)
        if self.bars:
            self.bars.stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was found."""
        if self.bars:
            self.bars.stop()

    def show(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the line."""
        if self.bars:
            text, done = self.text(trainer, pl_module), trainer.global_step
            self.bars.update(self.bars.task_ids[0], completed=done, description=text)
        elif self.is_enabled:
            self.line.print(self.text(trainer, pl_module))

    def text(self, trainer: Trainer, pl_module: Any) -> str:
        """Return the line."""
        progress, step = pl_module.progress, trainer.global_step
        measured = sum(each.seconds for each in self.measuring)
        seconds = (time.monotonic() - self.began - measured) / (step - self.first_step)
        left = seconds * (progress.steps - step) + sum(
            each.seconds / each.times * each.measurements_left(trainer)
            for each in self.measuring
            if each.times
        )
        epoch = min(step * progress.epochs // progress.steps + 1, progress.epochs)
        speed, waiting = self.throughput, []
        if speed and speed.seconds:
            waiting.append(f"{100 * speed.seconds_waited / speed.seconds:.0f} % waiting for data")
        parts = [
            f"epoch {epoch}/{progress.epochs}",
            f"step {step}/{progress.steps}",
            f"{duration(left)} left",
            f"{progress.batch_size / seconds:.3g} images/s",
            *waiting,
            *(f"{name} {float(value):.3f}" for name, value in trainer.progress_bar_metrics.items()),
            *(f"{name} {value:.1f}" for each in self.measuring for name, value in each.newest()),
        ]
        return ", ".join(dict.fromkeys(parts))
