"""NaN guard: ends a run at NaN or infinity before it reaches the weights, and keeps the step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm

from vitlab import distributed
from vitlab.callbacks.failed_step import FailedStep, free_folder, write
from vitlab.callbacks.step_trace import StepTrace, trace_step
from vitlab.data import VisionDataModule
from vitlab.data.batch import Batch
from vitlab.data.sampler import GlobalBatchSampler
from vitlab.run.module import Pretraining
from vitlab.run.run_dir import resume_hint

MIN_SCALE = 1e-3  # of fp16: 26 halvings from the first scale are no search for a scale any more

RATE = "Try a lower model.optimizer.lr or a longer model.optimizer.warmup_epochs"
REMEDIES = {
    "image": "The data made it, not the model: see to {files} and to the transform of the images",
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


class NaNGuard(Callback):
    """Checks the loss and the gradients of each step.

    All ranks must stop at the same step, though only one may have seen the number. So `Pretraining`
    replaces a loss that is not finite by NaN, which backward takes to the gradients of all ranks,
    and these are checked before the optimizer uses them.
    """

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.index = 0  # of the micro-batch above: the newest, or the first that is not finite
        self.found = self.in_loss = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember a micro-batch, unless one before it in this step is not finite."""
        if not self.found:
            self.batch, self.index = batch, batch_idx

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check each micro-batch, to know the first that is not finite."""
        assert isinstance(pl_module, Pretraining)
        if not torch.isfinite(pl_module.logs["loss"]):
            self.found = self.in_loss = True
        elif trainer.accumulate_grad_batches > 1 and not torch.isfinite(_norm(pl_module)):
            self.found = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradients of a whole step, the same on all ranks.

        Raises:
            NotFiniteError: what was found, where it is kept, what to do; the same on all ranks.
        """
        assert isinstance(pl_module, Pretraining)
        if not torch.isfinite(_norm(pl_module)):
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
        assert self.batch is not None
        objective, progress, seed = module.objective, module.progress, module.step_seed(self.index)
        context = trainer.precision_plugin.forward_context
        trace = trace_step(objective, self.batch, progress, seed, context, scale)
        own, world = distributed.rank(), distributed.world_size()
        # a rank that saw it, if need be one that sees nothing now
        order = own if trace.first else world + (own if self.found else world + own)
        (least,) = distributed.all_reduce_max([-order])
        text = kept = ""
        if order == -least:
            folder = Path(trainer.default_root_dir)
            path = free_folder(folder)
            files = _files(trainer, self.index)
            text = self.sentence(trainer, trace, files)
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
                seen=trace.seen,
                files=tuple(files),
            )
            try:
                write(path, failure, objective, self.batch)
                kept = f"The step is kept: vitlab replay {path}"
            except OSError as error:
                kept = f"The step could not be kept: {error}"
            kept += f"; {resume_hint(folder)}"
        raise NotFiniteError(*trainer.strategy.broadcast((text, kept), src=-least % world))

    def sentence(self, trainer: Trainer, trace: StepTrace, files: Sequence[str]) -> str:
        """Return what happened, the evidence and the remedy, without the last full stop."""
        what = f"the loss is {trace.loss}" if self.in_loss else "gradients are not finite"
        rank = f", rank {distributed.rank()}" if distributed.world_size() > 1 else ""
        where = f"at step {trainer.global_step} (epoch {trainer.current_epoch}{rank})"
        first, before = trace.first, trace.largest_before
        full = str(trainer.precision).startswith(("32", "64"))
        precision = "" if full else ", or trainer.precision 32-true"
        if first is None:
            again = "when the step was taken again, every number was finite"
            return f"{what} {where}; {again}. {REMEDIES['output'].format(precision=precision)}"
        count = f"{first.wrong:,} of {max(1, torch.Size(first.shape).numel()):,} numbers"
        evidence = f"the first that is not finite is {first}: {count}"
        if before is not None and first.kind != "weight":
            evidence += f", where the largest before was {before.largest:.3g}, in {before}"
        if first.kind == "output" and (weight := _largest_weight(trainer, first.name)):
            evidence += f"; the largest of its weights is {weight:.3g}"
        named = _damaged(self.batch, files) if self.batch and first.kind == "image" else []
        names = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
        remedy = REMEDIES[first.kind].format(files=names or "the images", precision=precision)
        return f"{what} {where}; {evidence}. {remedy}"


def _norm(module: Pretraining) -> torch.Tensor:
    return get_total_norm([p.grad for p in module.objective.parameters() if p.grad is not None])


def _damaged(batch: Batch, files: Sequence[str]) -> list[str]:
    """Return the files of the images that hold a number which is not finite."""
    finite = [torch.isfinite(stack).all(-1).all(-1).all(-1).all(0) for stack in batch.views]
    bad = ~torch.stack(finite).all(0)
    return [file for file, wrong in zip(files, bad.tolist(), strict=False) if wrong]


def _largest_weight(trainer: Trainer, name: str) -> float:
    """Return the largest absolute weight of a module of the objective; 0 for none."""
    objective = trainer.lightning_module.get_submodule("objective")
    module = objective if name == "objective" else objective.get_submodule(name)
    return max((float(p.detach().abs().max()) for p in module.parameters(recurse=False)), default=0)


def _files(trainer: Trainer, index: int) -> list[str]:
    """Return the files of a micro-batch of this epoch, where its loader knows them."""
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    data = getattr(trainer, "datamodule", None)
    if not (isinstance(batches, GlobalBatchSampler) and isinstance(data, VisionDataModule)):
        return []
    samples = data.samples(data.train_split)
    places = batches.share(trainer.current_epoch)[index]
    return [samples.image(int(place) // batches.repeats) for place in places]
