"""The LightningModule: takes optimizer steps on the loss of an objective."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Subset

from vitlab.config_safety import ClassParser
from vitlab.data import DataError, Loader, VisionDataModule, normalize
from vitlab.data.batch import Batch
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.objectives.objective import check_loss, find_encoders
from vitlab.optim.optimizer import OptimizerConfig
from vitlab.optim.schedules import Progress
from vitlab.progress import ProgressBar
from vitlab.run.contracts import check_encoder_of, check_own_classes, try_loss
from vitlab.run.trainer_checks import check_trainer

END = Progress(10**6, 10**6, 10**6, 1)  # of a run, behind every warm-up
SETUP_BATCH = 64  # images of one forward pass of `Objective.setup`


class Pretraining(LightningModule):
    """Trains one objective.

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
        check_encoder_of(objective)
        self.objective, self.settings, self.seed = objective, optimizer, seed
        self.logs: dict[str, Tensor] = {}  # of the newest micro-batch, and its step
        self.last = Progress(0, 1, 1, 1)  # that the newest step began with
        self.groups: list[tuple[float, float, int]] = []  # as set for the next step
        self.planned: set[str] | None = None  # parameters that learn by the plan of the run
        self.accumulate = 1  # micro-batches of a step
        self.tried = False  # the loss, where it is of the user's own

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, **_: Any
    ) -> "Pretraining":
        """Rebuild a run's model from its checkpoint, with classes that a config may build.

        Raises:
            InputError: the settings in the checkpoint are of no model.
        """
        content = torch.load(checkpoint_path, map_location, weights_only=True)
        module = build_module(content["hyper_parameters"], checkpoint_path)
        module.on_load_checkpoint(content)
        return module

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the objective's trained parameters."""
        return self.settings.build(self.objective)

    @property
    def progress(self) -> Progress:
        """Training progress.

        Raises:
            InputError: the batch size of a loader given to `Trainer.fit` is not known.
        """
        accumulate = self.trainer.accumulate_grad_batches
        per_epoch = ceil(self.trainer.num_training_batches / accumulate)
        epochs = self.trainer.max_epochs or 1
        data = vision_data(self.trainer)
        if data is not None:
            batch = data.global_batch_size
        else:  # of a loader given to `Trainer.fit`
            loader: Any = self.trainer.train_dataloader
            sources = (loader, getattr(loader, "batch_sampler", None))
            size = next((n for each in sources if (n := getattr(each, "batch_size", None))), 0)
            if not size:
                raise InputError(
                    f"the loader {type(loader).__name__} does not say its batch size, by which the "
                    "learning rate is scaled; give it the attribute batch_size",
                    field="train_dataloaders",
                )
            batch = size * accumulate * self.trainer.world_size
        return Progress(self.global_step, per_epoch * epochs, epochs, batch)

    def step_seed(self, batch_idx: int) -> int:
        """Return the seed of torch's random numbers in a micro-batch of the next step.

        It is a function of the step. Thus a resumed run draws what the uninterrupted one would have
        drawn, and nothing that happens between steps, such as a probe, can change training.
        """
        entropy = [self.seed, self.global_step, batch_idx, self.global_rank]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def on_fit_start(self) -> None:
        """Refuse settings of the trainer that would be ignored; set up the objective of a new run.

        Raises:
            InputError: a setting of the trainer that cannot be used.
            DataError: the objective cannot learn from these data.
        """
        check_trainer(self.trainer)
        if other := (self.planned or self.trained_names()) ^ self.trained_names():
            raise InputError(
                f"{len(other)} parameters, such as {min(other)}, were frozen or freed since the "
                "plan; leave out the callback that does so: model.objective decides what learns",
                field="trainer.callbacks",
            )
        find_encoders(self.objective)  # which refuses what no checkpoint can describe
        data = vision_data(self.trainer)
        if data is None:
            return
        if self.planned is None:
            check_own_classes(self.objective, data)
        if self.trainer.ckpt_path is None:  # else the checkpoint holds its state
            self.setup_objective(data)
            if not self.tried:
                try_loss(self.objective, data, self.trainer)

    def setup_objective(self, data: VisionDataModule) -> None:
        """Call `Objective.setup` with center crops of the training images, in fp32.

        Raises:
            DataError: the objective cannot learn from these data.
        """

        def read(indices: Sequence[int]) -> Iterator[Batch]:
            size = data.transform.crop_sizes[0][1]
            images = Subset(data.classification_dataset(data.train_split, size), indices)
            for pixels, labels in Loader(images, SETUP_BATCH, num_workers=data.num_workers):
                yield Batch([normalize(pixels.to(self.device))[None]], labels.to(self.device))

        training = self.objective.training
        self.objective.eval()
        try:
            with ProgressBar("preparing the objective"):
                found = self.objective.setup(read, len(data.samples(data.train_split)))
        except ValueError as error:
            raise DataError(str(error)) from error  # of a model and its data, not of the code
        finally:
            self.objective.train(training)
        if found:
            self.print(found)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the seed of the step.

        Raises:
            InputError: a callback has changed what `model` and `data` decide.
        """
        found = self._groups()
        if found != self.groups:
            raise InputError(
                f"learning rate, weight decay and number of learning tensors are {found} and not "
                f"{self.groups}, as model.optimizer has set them for this step; leave out the "
                "callback that changes them, and set model.optimizer.lr and lr_schedule",
                field="trainer.callbacks",
            )
        if self.trainer.accumulate_grad_batches != self.accumulate:
            raise InputError(
                f"trainer.accumulate_grad_batches is {self.trainer.accumulate_grad_batches}, and "
                f"was {self.accumulate} as the run began; leave out the callback that changes it: "
                "the global batch is data.global_batch_size throughout",
                field="trainer.callbacks",
            )
        torch.manual_seed(self.step_seed(batch_idx))

    def on_train_start(self) -> None:
        """Set the schedules of the first step; later ones are set as a step ends."""
        self.accumulate = self.trainer.accumulate_grad_batches
        self.apply_schedules(self.progress)

    def apply_schedules(self, progress: Progress) -> None:
        """Set learning rates and weight decay of a step, where LearningRateMonitor sees them."""
        self.settings.apply_schedules(self.trainer.optimizers[0], progress)
        self.groups = self._groups()

    def _groups(self) -> list[tuple[float, float, int]]:
        """Return learning rate, weight decay and number of learning tensors of each group."""
        return [
            (g["lr"], g.get("weight_decay", 0.0), sum(p.requires_grad for p in g["params"]))
            for g in self.trainer.optimizers[0].param_groups
        ]

    def trained_names(self) -> set[str]:
        """Return the parameters that learn."""
        return {name for name, each in self.objective.named_parameters() if each.requires_grad}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of held-out images, `val/objective_loss`, for `Trainer.validate`."""
        loss = self.objective.loss(batch, END).value
        self.log("val/objective_loss", loss, batch_size=batch.views[0].shape[1], sync_dist=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-batch; NaN in place of any other that is not finite.

        NaN reaches the gradients of all ranks, so that all of them see it, see `NaNGuard`.
        """
        loss = self.objective.loss(batch, self.progress)
        check_loss(self.objective, loss)
        value = loss.value.detach()
        self.log("loss", value, prog_bar=True)
        self.log_dict(loss.logs)
        self.logs = {"loss": value, **loss.logs}
        return loss.value if torch.isfinite(value) else loss.value * torch.nan

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, then let the objective change them."""
        norm = self.settings.clip(self.objective.parameters())
        progress = self.progress
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
        self.apply_schedules(replace(progress, step=min(progress.step + 1, progress.steps)))
        self.objective.after_step(progress)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Say where the encoders are; refuse to write weights that are not finite over good ones.

        Raises:
            FloatingPointError: a parameter or buffer is not finite.
        """
        checkpoint["encoders"] = find_encoders(self.objective)
        for name, weight in self.state_dict().items():  # of buffers, DINO's center
            if not torch.isfinite(weight).all():
                raise FloatingPointError(
                    f"the weight {name} is not finite after step {self.global_step}, though the "
                    "gradients were; the checkpoints on disk are from before. Try a lower "
                    "model.optimizer.lr or a longer model.optimizer.warmup_epochs"
                )

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuse a checkpoint of another model.

        Raises:
            InputError: tensors that are missing, unknown or of another shape.
        """
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise InputError(
                "the checkpoint is of another model than the config describes: "
                f"{shorten(str(error), 400)}. Give the config it was trained with; config.yaml "
                "lies beside it",
                field="--ckpt_path",
            ) from error


def vision_data(trainer: Trainer) -> VisionDataModule | None:
    """Return the trainer's data, where they are of ours and not, say, a loader."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, VisionDataModule) else None


def build_module(settings: dict[str, Any], where: object) -> Pretraining:
    """Build a model from the arguments that a checkpoint or a failed step holds.

    Args:
        settings: arguments of `Pretraining` as plain values.
        where: file they are from, for the message.

    Raises:
        InputError: they name a class from elsewhere, or are of no model.
    """
    parser = ClassParser(exit_on_error=False)
    parser.add_class_arguments(Pretraining, "model")
    problem = f"{where} has settings of no model"
    return parser.build({"model": settings}, where, problem, str(where)).model
