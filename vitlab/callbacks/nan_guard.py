"""NaN guard: ends a run at NaN or infinity before it reaches the weights, and keeps the step."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch.nn.utils import get_total_norm

from vitlab import distributed
from vitlab.callbacks import failed_step
from vitlab.callbacks.failed_step import FailedStep, Trace, trace_step
from vitlab.callbacks.pretraining_callback import PretrainingCallback
from vitlab.data.batch import Batch
from vitlab.data.sampler import GlobalBatchSampler
from vitlab.run.module import Pretraining, vision_data
from vitlab.run.run_dir import resume_hint

MIN_SCALE = 1e-3  # of fp16: 26 halvings from the first scale are no search for a scale any more
REMEDY = (
    "Try a lower model.optimizer.lr, a longer model.optimizer.warmup_epochs or a lower "
    "model.optimizer.clip_grad_norm"
)


class NotFiniteError(FloatingPointError):
    """A step met NaN or infinity.

    Attributes:
        reason: what happened, the evidence and the remedy.
    """

    def __init__(self, reason: str, kept: str):
        super().__init__(f"{reason}. {kept}")
        self.reason = reason


class NaNGuard(PretrainingCallback):
    """Checks the loss and the gradients of each step.

    All ranks must stop at the same step, though only one may have seen the number. So `Pretraining`
    replaces a loss that is not finite by NaN, which backward takes to the gradients of all ranks,
    and these are checked before the optimizer uses them.
    """

    batch: Batch

    def __init__(self) -> None:
        self.index = 0  # of `batch` in the epoch: the newest, or the first that is not finite
        self.found = self.in_loss = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Remember a micro-batch, unless one before it in this step is not finite."""
        if not self.found:
            self.batch, self.index = batch, batch_idx

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        """Check each micro-batch, to know the first that is not finite."""
        if not torch.isfinite(pl_module.logs["loss"]):
            self.found = self.in_loss = True
        elif trainer.accumulate_grad_batches > 1 and not _finite_gradients(pl_module):
            self.found = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradients of a whole step, the same on all ranks.

        Raises:
            NotFiniteError: what was found, where it is kept, what to do; the same on all ranks.
        """
        if not _finite_gradients(pl_module):
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = float(scaler.get_scale()) if scaler is not None else 1.0
            (in_loss,) = distributed.all_reduce_max([int(self.in_loss)])
            # in fp16, the scaler leaves such a step out, and tries a lower scale
            if in_loss or scaler is None or scale < MIN_SCALE:
                self.fail(trainer, pl_module, scale)
        self.found = self.in_loss = False

    def fail(self, trainer: Trainer, module: Pretraining, scale: float) -> None:
        """Take the micro-batch again on every rank, and keep it from the first that meets it.

        Raises:
            NotFiniteError: always.
        """
        objective, progress, seed = module.objective, module.progress, module.step_seed(self.index)
        context = trainer.precision_plugin.forward_context
        seen = trace_step(objective, self.batch, progress, seed, context, scale)
        own, world = distributed.rank(), distributed.world_size()
        # a rank that sees it again, if need be one that saw it, or any
        order = own + world * (0 if failed_step.first_wrong(seen) else 1 if self.found else 2)
        (least,) = distributed.all_reduce_max([-order])
        text = kept = ""
        if order == -least:
            files = _files(trainer, self.index)
            text = self.sentence(trainer, seen, files)
            failure = FailedStep(
                sentence=text,
                progress=progress,
                epoch=trainer.current_epoch,
                micro_batch=self.index,
                rank=own,
                world=world,
                seed=seed,
                precision=str(trainer.precision),
                device=next(objective.parameters()).device.type,
                threads=torch.get_num_threads(),
                scale=scale,
                evaluating=tuple(n for n, part in objective.named_modules() if not part.training),
                model=dict(module.hparams) or None,
                seen=seen,
                files=tuple(files),
            )
            folder = Path(trainer.default_root_dir)
            try:
                path = failed_step.write(folder, failure, objective, self.batch)
                kept = f"The step is kept: vitlab replay {path}; {resume_hint(folder)}"
            except OSError as error:
                kept = f"The step could not be kept: {error}; {resume_hint(folder)}"
        raise NotFiniteError(*trainer.strategy.broadcast((text, kept), src=-least % world))

    def sentence(self, trainer: Trainer, seen: Trace, files: Sequence[str]) -> str:
        """Return what happened, the evidence and the remedy, without the last full stop."""
        what = f"{'the loss is' if self.in_loss else 'gradients are'} not finite at step "
        what += f"{trainer.global_step} (epoch {trainer.current_epoch}, rank {distributed.rank()})"
        first, before = failed_step.first_wrong(seen), failed_step.largest_before(seen)
        full = str(trainer.precision).startswith(("32", "64"))
        remedy = REMEDY if full else f"{REMEDY}, or trainer.precision 32-true"
        if first is None:
            return f"{what}; when the step was taken again, every number was finite. {remedy}"
        evidence = f"the first that is not finite is {first}: {first.wrong:,} of "
        evidence += f"{math.prod(first.shape):,} numbers"
        if before is not None:
            evidence += f", where the largest before was {before.largest:.3g}, in {before}"
        if first.kind == "image":
            finite = [stack.isfinite().all(-1).all(-1).all(-1).all(0) for stack in self.batch.views]
            damaged = ~torch.stack(finite).all(0)
            names = [file for file, bad in zip(files, damaged.tolist(), strict=False) if bad]
            remedy = "The data made it, not the model: see to the transform of the images and to "
            remedy += ", ".join(names[:3]) or "their files"
        elif first.kind == "weight":
            remedy = f"It was there before this step. {remedy}, if no code of yours put it there"
        return f"{what}; {evidence}. {remedy}"


def _finite_gradients(module: Pretraining) -> bool:
    gradients = [p.grad for p in module.objective.parameters() if p.grad is not None]
    return bool(get_total_norm(gradients).isfinite())


def _files(trainer: Trainer, index: int) -> list[str]:
    """Return the files of a micro-batch of this epoch, where its loader knows them."""
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    data = vision_data(trainer)
    if data is None or not isinstance(batches, GlobalBatchSampler):
        return []
    samples = data.samples(data.train_split)
    places = batches.share(trainer.current_epoch)[index]
    return [samples.image(int(place) // batches.repeats) for place in places]
