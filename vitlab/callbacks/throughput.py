"""Images per second of a run, and how long it waits for data."""

import time

from lightning import LightningModule, Trainer

from vitlab.callbacks.pretraining_callback import PretrainingCallback


class ThroughputMonitor(PretrainingCallback):
    """Logs images per second and the seconds each step waited for data.

    Attributes:
        seconds: of all steps of this process but the first of each epoch.
        seconds_waited: those of them that passed in waiting for data.
    """

    def __init__(self) -> None:
        self.began = self.ended = self.waited = 0.0
        self.seconds = self.seconds_waited = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; time between epochs does not count."""
        self.ended = time.perf_counter()
        self.waited = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Add the time the batch was awaited."""
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Log both at the end of an optimizer step."""
        self.ended = time.perf_counter()
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.began:
            images, seconds = pl_module.progress.batch_size, self.ended - self.began
            self.seconds += seconds
            self.seconds_waited += self.waited
            rates = {"speed/images_per_second": images / seconds}
            pl_module.log_dict({**rates, "speed/data_wait": self.waited})
        self.began, self.waited = self.ended, 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.began = 0.0
