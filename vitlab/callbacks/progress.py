"""One line for a whole run: epoch, step, time left, speed, loss, newest scores."""

import time
from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn

from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.progress import PlainLine, duration
from vitlab.terminal import console

BAR = 16  # columns
SMOOTHING = 0.95  # of the share of time that is spent waiting for data, over steps


class RunProgress(ProgressBar):
    """Shows the progress of the run in one line: under a bar on a terminal, else at intervals.

    The time left is that of all steps and measurements to come, each at its mean so far.

    Args:
        measuring: callbacks that measure at the ends of epochs.
    """

    def __init__(self, measuring: Sequence[EvaluationCallback] = ()):
        super().__init__()
        self.measuring = measuring
        self.is_enabled = True
        self.bars: Progress | None = None
        self.line = PlainLine()
        self.began = self.waiting = 0.0
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
        if self.began:
            self.show(trainer, pl_module, self.line.is_due())
        else:
            self.began = time.monotonic() - sum(each.seconds for each in self.measuring)
            self.first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the last line."""
        if self.began and trainer.global_step > self.first_step:
            self.show(trainer, pl_module, in_logs=True)
        if self.bars:
            self.bars.stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was found."""
        if self.bars:
            self.bars.stop()

    def show(self, trainer: Trainer, pl_module: Any, in_logs: bool) -> None:
        """Show the line on a terminal, and elsewhere if it is wanted there."""
        if self.bars:
            text, done = self.text(trainer, pl_module), trainer.global_step
            self.bars.update(self.bars.task_ids[0], completed=done, description=text)
        elif self.is_enabled and in_logs:
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
        logged = trainer.callback_metrics
        rate = float(logged.get("speed/images_per_second", 0.0))
        share = float(logged.get("speed/data_wait", 0.0)) * rate / progress.batch_size
        self.waiting = SMOOTHING * self.waiting + (1 - SMOOTHING) * share if self.waiting else share
        epoch = min(step * progress.epochs // progress.steps + 1, progress.epochs)
        parts = [
            f"epoch {epoch}/{progress.epochs}",
            f"step {step}/{progress.steps}",
            f"{duration(left)} left",
            f"{progress.batch_size / seconds:.3g} images/s",
            f"{100 * self.waiting:.0f} % waiting for data",
            *(f"{name} {float(value):.3f}" for name, value in trainer.progress_bar_metrics.items()),
            *(f"{name} {value:.1f}" for each in self.measuring for name, value in each.newest()),
        ]
        return ", ".join(dict.fromkeys(parts))
