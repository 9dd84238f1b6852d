"""Ends a run at NaN or infinity before it reaches the weights, and keeps the step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

from vitlab import distributed
from vitlab.callbacks.failed_step import FailedStep, place, write
from vitlab.callbacks.step_trace import StepTrace, trace_step
from vitlab.data import VisionDataModule
from vitlab.data.batch import Batch
from vitlab.data.sampler import GlobalBatchSampler
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress
from vitlab.training.exit_codes import resume_hint

LEAST_SCALE = 1e-3  # of fp16: 26 halvings from where it starts are no search for a scale any more

RATE = "Try a lower model.optimizer.lr or a longer model.optimizer.warmup_epochs"
REMEDIES = {
    "image": "The data made it, not the model: see to {files} and to what changes images on the "
    "way",
    "weight": f"It was there before this step. {RATE}, if no code of yours put it there",
    "output": RATE + "{precision}",
    "loss": RATE + "{precision}",
    "gradient": RATE + ", a lower model.optimizer.clip_grad_norm{precision}",
}


class NotFiniteError(FloatingPointError):
    """A step met NaN or infinity.

    Attributes:
        reason: what happened, the evidence and the remedy.
    """

    def __init__(self, reason: str, kept: str):
        super().__init__(f"{reason}. {kept}")
        self.reason = reason


class NaNGuard:
    """Looks at the loss and the gradients of each step.

    All ranks must stop at the same step, though only one may have seen the number. So a loss that
    is not finite becomes NaN, which backward takes to the gradients of all ranks, and these are
    looked at before the optimizer uses them.
    """

    def __init__(self) -> None:
        self.blamed: int | None = None  # index of the micro-batch that is to blame, once known
        self.of_loss = False
        self.batch: Batch | None = None
        self.index = self.seed = 0

    def begin(self, batch: Batch, index: int, seed: int) -> None:
        """Remember a micro-batch, unless one before it in this step is to blame."""
        if self.blamed is None:
            self.batch, self.index, self.seed = batch, index, seed

    def checked(self, loss: Tensor, index: int) -> Tensor:
        """Return a loss, NaN in place of any other that is not finite."""
        if torch.isfinite(loss):
            return loss
        self.of_loss = True
        self.blame(index)
        return loss * torch.nan

    def blame(self, index: int) -> None:
        """Note that the gradients are not finite since this micro-batch."""
        if self.blamed is None:
            self.blamed = index

    def check(
        self, trainer: Trainer, objective: Objective, norm: Tensor, progress: Progress
    ) -> None:
        """Look at the gradients of a whole step, the same on all ranks.

        Args:
            trainer: of the run.
            objective: with the weights that the step began with.
            norm: of all gradients together.
            progress: that the step began with.

        Raises:
            NotFiniteError: what was found, where it is kept, what to do; the same on all ranks.
        """
        if not torch.isfinite(norm):
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = float(scaler.get_scale()) if scaler is not None else 1.0
            (of_loss,) = distributed.all_reduce_max([int(self.of_loss)])
            # in fp16, the scaler leaves such a step out, and tries a lower scale
            if of_loss or scaler is None or scale < LEAST_SCALE:
                self.fail(trainer, objective, progress, scale)
        self.blamed, self.of_loss = None, False

    def fail(
        self, trainer: Trainer, objective: Objective, progress: Progress, scale: float
    ) -> None:
        """Take the micro-batch again on every rank, and keep it from the first that meets it.

        Raises:
            NotFiniteError: always.
        """
        assert self.batch is not None
        context = trainer.precision_plugin.forward_context
        found = trace_step(objective, self.batch, progress, self.seed, context, scale)
        own, world = distributed.rank(), distributed.world_size()
        # a rank that saw it, if need be one that sees nothing now
        order = own if found.first else world + (own if self.blamed is not None else world + own)
        (least,) = distributed.all_reduce_max([-order])
        text = kept = ""
        if order == -least:
            folder = Path(trainer.default_root_dir)
            path = place(folder)
            files = _files(trainer, self.index)
            text = self.sentence(trainer, found, progress, files)
            failure = FailedStep(
                sentence=text,
                progress=progress,
                epoch=trainer.current_epoch,
                micro_batch=self.index,
                rank=own,
                world=world,
                seed=self.seed,
                precision=str(trainer.precision),
                device=next(objective.parameters()).device.type,
                threads=torch.get_num_threads(),
                scale=scale,
                evaluating=tuple(
                    name for name, module in objective.named_modules() if not module.training
                ),
                model=_settings(trainer),
                seen=found.seen,
                files=tuple(files),
            )
            try:
                write(path, failure, objective, self.batch)
                kept = f"The step is kept: vitlab replay {path}"
            except OSError as error:
                kept = f"The step could not be kept: {error}"
            kept += f"; {resume_hint(folder)}"
        raise NotFiniteError(*trainer.strategy.broadcast((text, kept), src=-least % world))

    def sentence(
        self, trainer: Trainer, found: StepTrace, progress: Progress, files: Sequence[str]
    ) -> str:
        """Return what happened, the evidence and the remedy, without the last full stop."""
        what = f"the loss is {found.loss}" if self.of_loss else "gradients are not finite"
        where = f"at step {progress.step} (epoch {trainer.current_epoch}"
        where += f", rank {distributed.rank()})" if distributed.world_size() > 1 else ")"
        first, before = found.first, found.largest_before
        precision = str(trainer.precision)
        low = "" if precision.startswith(("32", "64")) else ", or trainer.precision 32-true"
        if first is None:
            again = "when the step was taken again, every number was finite"
            return f"{what} {where}; {again}. {REMEDIES['output'].format(precision=low)}"
        count = f"{first.wrong:,} of {max(1, torch.Size(first.shape).numel()):,} numbers"
        evidence = f"the first that is not finite is {first}: {count}"
        if before is not None and first.kind != "weight":
            evidence += f", where the largest before was {before.largest:.3g}, in {before}"
        named = _damaged(self.batch, files) if self.batch and first.kind == "image" else []
        if first.kind == "output" and (weight := _largest_weight(trainer, first.name)):
            evidence += f"; the largest of its weights is {weight:.3g}"
        names = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
        remedy = REMEDIES[first.kind].format(files=names or "the images", precision=low)
        return f"{what} {where}; {evidence}. {remedy}"


def _damaged(batch: Batch, files: Sequence[str]) -> list[str]:
    """Return the files of the images that hold a number which is not finite."""
    finite = [torch.isfinite(stack).all(-1).all(-1).all(-1).all(0) for stack in batch.views]
    bad = ~torch.stack(finite).all(0)
    return [file for file, wrong in zip(files, bad.tolist(), strict=False) if wrong]


def _largest_weight(trainer: Trainer, name: str) -> float:
    """Return the largest weight of a module of the objective, by its absolute value; 0 of none."""
    objective = trainer.lightning_module.get_submodule("objective")
    module = objective if name == "objective" else objective.get_submodule(name)
    return max((float(p.detach().abs().max()) for p in module.parameters(recurse=False)), default=0)


def _settings(trainer: Trainer) -> dict | None:
    """Return class and arguments of the model, as `vitlab fit` keeps them in checkpoints."""
    settings = dict(trainer.lightning_module.hparams)
    return settings if settings.pop("_instantiator", None) else None


def _files(trainer: Trainer, index: int) -> list[str]:
    """Return the files of a micro-batch of this epoch, where its loader can say so."""
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    data = getattr(trainer, "datamodule", None)
    if not (isinstance(batches, GlobalBatchSampler) and isinstance(data, VisionDataModule)):
        return []
    samples = data.samples(data.train_split)
    places = batches.share(trainer.current_epoch)[index]
    return [samples.image(int(place) // batches.repeats) for place in places]
