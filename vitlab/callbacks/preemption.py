"""A run that is asked to stop ends between two steps, on all ranks at the same one."""

import time
from signal import Signals

from lightning import Callback, Trainer

from vitlab import distributed, signals
from vitlab.callbacks.checkpoint import CheckpointCallback

LONG = 60.0  # seconds of training that a stop within the measurements of an epoch may lose


class Preempted(Exception):  # noqa: N818, no error
    """The run ends here, and can go on.

    Attributes:
        signal: that asked for it.
        further: whether this start has come further than where it began.
    """

    def __init__(self, signal: int, step: int, further: bool):
        super().__init__(f"stopped by {Signals(signal).name} at step {step}")
        self.signal, self.further = signal, further


class Preemption(Callback):
    """Between two steps, asks all ranks whether to stop and whether a checkpoint is due.

    A signal handler that wrote the checkpoint itself would do so in the middle of a step, or while
    other ranks wait in another place. It is the first of the callbacks, as an epoch's end is long.

    Args:
        checkpoints: the callback that writes them.
    """

    def __init__(self, checkpoints: CheckpointCallback):
        self.checkpoints = checkpoints
        self.first = 0  # step at which this start began
        self.began = 0.0  # time of the newest step; 0 within the measurements

    def on_train_start(self, trainer: Trainer, *of_run: object) -> None:
        """Take the signals back from Lightning; refuse ranks that have read other checkpoints.

        Raises:
            OSError: the ranks continue from different steps.
            Preempted: a rank has been asked to stop, while there was nothing to save yet.
        """
        signals.listen()
        self.first = step = trainer.global_step
        low, high, asked = distributed.all_reduce_max([-step, step, signals.noted()])
        if -low != high:
            raise OSError(
                f"the ranks continue from different steps, {-low} to {high}: not all of them can "
                "read the newest checkpoint; see that the run's folder is the same on all machines"
            )
        if asked:
            signals.acted()
            raise Preempted(asked, step, further=False)

    def on_train_batch_start(self, trainer: Trainer, _: object, batch: object, index: int) -> None:
        """Ask before the first micro-batch of a step: the one before is logged and complete."""
        if index % trainer.accumulate_grad_batches == 0:
            now = time.monotonic()
            if self.began:  # a signal that comes at the beginning of a step waits for its end
                signals.allow(2 * (now - self.began))
            self.began = now
            self.pause(trainer, self.checkpoints.due)

    def on_train_epoch_end(self, trainer: Trainer, *of_run: object) -> None:
        """Ask before the measurements, which a run that goes on from here makes first."""
        self.began = 0.0
        self.pause(trainer, time.monotonic() - self.checkpoints.saved > LONG)

    def pause(self, trainer: Trainer, due: bool) -> None:
        """Write a checkpoint if one is due on a rank.

        Raises:
            Preempted: a rank has been asked to stop; the checkpoint is written.
        """
        asked, due = distributed.all_reduce_max([signals.noted(), int(due)])  # type: ignore[assignment]
        if asked:
            signals.acted()
        step = trainer.global_step
        # by steps, or by the measurements of an epoch's end, which leave a checkpoint
        further = step > self.first or self.checkpoints.step == step
        if (asked or due) and self.checkpoints.step != step:
            self.checkpoints.save(trainer, mid_epoch=True)
        if asked:
            raise Preempted(asked, step, further)
