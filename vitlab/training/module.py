"""The single LightningModule: asks an objective for losses and takes the steps."""

from math import ceil

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from vitlab.config_safety import restrict_imports
from vitlab.data.batch import Batch
from vitlab.objectives import Objective
from vitlab.optim.optimizer import OptimizerConfig
from vitlab.optim.schedules import Progress


class Pretraining(LightningModule):
    """Wraps one objective.

    Args:
        objective: what is learned, and with which encoder.
        optimizer: settings of the optimizer.
        seed: of the randomness inside a step; follows seed_everything.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        seed: int = 0,
    ):
        super().__init__()
        from vitlab.callbacks.nan_guard import NaNGuard

        self.objective, self.settings, self.seed = objective, optimizer, seed
        self.guard = NaNGuard()
        self.logs: dict[str, Tensor] = {}  # of the newest micro-batch, and its step
        self.last = Progress(0, 1, 1, 1)  # that the newest step began with

    @classmethod
    def load_from_checkpoint(cls, *args, **kwargs) -> "Pretraining":
        """Rebuild a run's model from its checkpoint, as Lightning does, with our classes only."""
        restrict_imports()
        return super().load_from_checkpoint(*args, **kwargs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of what the objective trains."""
        return self.settings.build(self.objective)

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        per_epoch = ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        epochs = self.trainer.max_epochs or 1
        batch = self.trainer.datamodule.global_batch_size  # type: ignore[attr-defined]
        return Progress(self.global_step, per_epoch * epochs, epochs, batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the schedules, and make the randomness of a step a function of the step.

        Thus a resumed run draws what the uninterrupted one would have drawn, and nothing that
        happens between steps, such as a probe, can change training.
        """
        self.settings.apply_schedules(self.trainer.optimizers[0], self.progress)
        entropy = [self.seed, self.global_step, batch_idx, self.global_rank]
        drawn = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        self.guard.begin(batch, batch_idx, drawn)
        torch.manual_seed(drawn)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-batch."""
        loss = self.objective.loss(batch, self.progress)
        self.log("loss", loss.value.detach(), prog_bar=True)
        self.log_dict(loss.logs)
        self.logs = {"loss": loss.value.detach(), **loss.logs}
        return self.guard.checked(loss.value, batch_idx)

    def on_after_backward(self) -> None:
        """Look at each micro-batch of several, to know which one is to blame."""
        if self.trainer.accumulate_grad_batches > 1:
            gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
            if not torch.isfinite(get_total_norm(gradients)):
                self.guard.blame(self.guard.index)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, then let the objective change them."""
        norm = self.settings.clip(self.objective.parameters())
        progress = self.progress
        self.guard.check(self.trainer, self.objective, norm, progress)
        self.objective.before_step(progress)
        logs: dict[str, Tensor | float] = {
            "optimizer/gradient_norm": norm,
            "optimizer/learning_rate": self.settings.lr_at(progress),
            "optimizer/weight_decay": self.settings.weight_decay_at(progress),
            **self.objective.schedules(progress),
        }
        self.log_dict(logs)
        self.last = progress
        self.logs["optimizer/gradient_norm"] = norm

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        """Take a step, then let the objective follow up on it."""
        progress = self.progress
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.objective.after_step(progress)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Refuse to write weights that are not finite over good ones.

        Raises:
            FloatingPointError: which weight.
        """
        kept = [*self.named_parameters(), *self.named_buffers()]  # of buffers, DINO's center
        for name, weight in kept:
            if not torch.isfinite(weight).all():
                raise FloatingPointError(
                    f"the weight {name} is not finite after step {self.global_step}, though the "
                    "gradients were; the checkpoints on disk are from before. Try a lower "
                    "model.optimizer.lr or a longer model.optimizer.warmup_epochs"
                )

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuse a checkpoint of another model, naming what differs."""
        given, wanted = checkpoint["state_dict"], self.state_dict()
        missing = [key for key in wanted if key not in given]
        unknown = [key for key in given if key not in wanted]
        shapes = [
            f"{key}: {tuple(given[key].shape)} in the file, {tuple(wanted[key].shape)} here"
            for key in wanted
            if key in given and given[key].shape != wanted[key].shape
        ]
        if missing or unknown or shapes:
            raise ValueError(
                "the checkpoint is of another model than the config describes: "
                f"{len(shapes)} tensors of another shape {_first(shapes)}, {len(missing)} missing "
                f"{_first(missing)}, {len(unknown)} unknown {_first(unknown)}. Give the config it "
                "was trained with; config.yaml lies beside it"
            )


def _first(names: list[str]) -> str:
    return f"(first: {names[0]})" if names else ""
