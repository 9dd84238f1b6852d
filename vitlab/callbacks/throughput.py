"""How fast a run is, and whether it waits for data."""

import time

from lightning import Callback, LightningModule, Trainer


class ThroughputMonitor(Callback):
    """Logs images per second and the seconds each step waited for data."""

    def __init__(self) -> None:
        self.ended = 0.0
        self.waited = 0.0
        self.began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; what happened between epochs does not count."""
        self.ended = time.perf_counter()
        self.waited = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Note how long the batch was awaited."""
        now = time.perf_counter()
        self.waited += now - self.ended

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Log both at the end of an optimizer step."""
        self.ended = time.perf_counter()
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.began:
            seconds = self.ended - self.began
            images = trainer.datamodule.global_batch_size
            rates = {"speed/images_per_second": images / seconds, "speed/data_wait": self.waited}
            pl_module.log_dict(rates)
        self.began, self.waited = self.ended, 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.began = 0.0
