"""Trial of a run: a few real steps, timed by parts, before it is launched.

The steps are those of `vitlab fit`: the same module, loop, precision, loaders and batch layout, on
one device with its share. Nothing is written and the weights are thrown away.
"""

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.environments import LightningEnvironment

from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.nan_guard import NaNGuard, NotFiniteError
from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.attention import entmax_attention
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.profiling.forecast import RunFacts, Timing, TrialResult
from vitlab.profiling.step_profiler import StepProfiler
from vitlab.profiling.throughput import Progress, evaluation_seconds, loader_throughput
from vitlab.run.lightning_compat import ignore_known_warnings
from vitlab.training.cli import FitCLI
from vitlab.training.plan import RunPlan, available

WARM_UP = 2  # steps that do not count: memory is allocated, kernels are chosen
PICTURE_COLUMNS = 5  # of the grids of the probes


class CheckpointSize(TorchCheckpointIO):
    """Counts the bytes of a checkpoint instead of writing it."""

    bytes = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        """Serialize a checkpoint into this object."""
        torch.save(checkpoint, self)  # type: ignore[arg-type]

    def write(self, content: Any) -> int:
        """Count bytes, as the file of `torch.save`."""
        self.bytes += memoryview(content).nbytes
        return memoryview(content).nbytes

    def flush(self) -> None:
        """Do nothing: there is no file."""


class TrialSteps(Callback):
    """Marks the steps for the profiler, stops after so many, and measures memory."""

    def __init__(self, profiler: StepProfiler, steps: int, progress: Progress):
        self.profiler, self.steps, self.progress = profiler, steps, progress
        self.rss_before = self.peak = self.num_metrics = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure memory before the first step."""
        self.rss_before = self.profiler.peak_rss = psutil.Process().memory_info().rss
        if self.profiler.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.profiler.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a step."""
        self.profiler.begin_step()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """End a step with its last micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.profiler.end_step()
            done = len(self.profiler.steps)
            self.progress(f"step {done}")
            trainer.should_stop = done >= self.steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure memory, and the size of a checkpoint while the optimizer exists."""
        if self.profiler.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.profiler.device)
        else:  # the weights were there before
            weights = sum(p.numel() * p.element_size() for p in pl_module.parameters())
            self.peak = weights + self.profiler.peak_rss - self.rss_before
        self.num_metrics = len(trainer.callback_metrics)
        trainer.save_checkpoint("not written", weights_only=False)


def run_trial(
    cli: FitCLI, plan: RunPlan, steps: int, progress: Progress
) -> tuple[TrialResult, RunFacts]:
    """Measure the loaders alone, some steps, a checkpoint, and the probes' encoding.

    Args:
        cli: of a run that passed its checks; its model is trained and its batch reduced to that of
            one device, so it cannot be used any further.
        plan: of the run.
        steps: that count; fewer where the run is shorter.
        progress: called after each part.

    Raises:
        InputError: the steps do not fit into memory, or the loss is not finite.
    """
    data, device = cli.datamodule, cli.trainer.strategy.root_device
    facts = run_facts(cli, plan)
    data.global_batch_size //= cli.trainer.world_size
    profiler, checkpoint_size = StepProfiler(device), CheckpointSize()
    trial_steps = TrialSteps(profiler, steps + WARM_UP, progress)
    given = cli.config_init.trainer.plugins
    several = given if isinstance(given, list) else [given]
    precision = [each for each in several if isinstance(each, Precision)]
    with TemporaryDirectory() as folder, warnings.catch_warnings():  # for the traces of a NaN
        ignore_known_warnings()
        trainer = Trainer(
            **{
                **_one_device(cli, plan),
                "callbacks": [NaNGuard(), trial_steps],
                # one process also where SLURM has started several
                "plugins": [LightningEnvironment(), *precision, checkpoint_size],
                "profiler": profiler,
                "default_root_dir": folder,
            }
        )
        loading = loader_throughput(data, progress)
        _fit(trainer, cli, facts)
        probe_seconds, validation_seconds = evaluation_seconds(cli, trainer, progress)
    every = profiler.seconds()
    counted = every[min(WARM_UP, len(every) - 1) :]
    trial = TrialResult(
        step=Timing(tuple(sum(parts.values()) for parts in counted)),
        parts={name: Timing(tuple(parts[name] for parts in counted)) for name in counted[0]},
        loading=loading,
        peak=trial_steps.peak,
        checkpoint=checkpoint_size.bytes,
        probe_seconds=probe_seconds,
        validation_seconds=validation_seconds,
    )
    points = facts.steps_per_epoch * facts.epochs
    points //= cli.config_init.trainer.log_every_n_steps or 1
    # throughput has two curves more
    return trial, replace(facts, scalars=points * (trial_steps.num_metrics + 2))


def _one_device(cli: FitCLI, plan: RunPlan) -> dict[str, Any]:
    """Return the run's settings of the trainer, for one device and without files."""
    device = cli.trainer.strategy.root_device
    return {
        **cli.config_init.trainer,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "num_nodes": 1,
        "strategy": "auto",
        "accumulate_grad_batches": plan.division.accumulate_grad_batches,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }


def _fit(trainer: Trainer, cli: FitCLI, facts: RunFacts) -> None:
    try:
        trainer.fit(cli.model, cli.datamodule)
    except torch.OutOfMemoryError as error:
        images = facts.micro_batch_size
        fewer = max((n for n in range(1, images) if images % n == 0), default=0)
        remedy = (
            f"try --data.micro_batch_size {fewer}" if fewer else "use a device with more memory"
        )
        raise InputError(
            f"{images} images do not fit into memory: {error}; {remedy}",
            field="data.micro_batch_size",
        ) from error
    except FloatingPointError as error:
        # the step is not kept here
        reason = error.reason if isinstance(error, NotFiniteError) else error
        raise InputError(f"the run would stop: {reason}") from error


def run_facts(cli: FitCLI, plan: RunPlan) -> RunFacts:
    """Return the settings of a run and properties of the machine, before anything is measured."""
    trainer, data, objective = cli.trainer, cli.datamodule, cli.model.objective
    probing, validation = cli.config_init.probing, cli.config_init.validation
    device, epochs = trainer.strategy.root_device, trainer.max_epochs or 1
    checkpoint: CheckpointCallback = cli.config_init.checkpoint
    every = checkpoint.every_n_epochs
    kept = 2 + (min(checkpoint.keep, epochs // every) if every else 0)
    kept += bool(probing.dense) + bool(objective.classifiers())  # the best
    probings = _count(probing.every_n_epochs, epochs) + 2 * probing.baselines
    on_gpu = device.type == "cuda"
    picture = probing.pictures * PICTURE_COLUMNS * probing.dense_size**2 * 3
    folder = cli.folder.absolute()
    disk = next(path for path in (folder, *folder.parents) if path.exists())
    return RunFacts(
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        world_size=trainer.world_size,
        local_devices=trainer.num_devices,
        global_batch_size=data.global_batch_size,
        micro_batch_size=plan.division.micro_batch_size,
        accumulate_grad_batches=plan.division.accumulate_grad_batches,
        steps_per_epoch=data.steps_per_epoch,
        epochs=epochs,
        num_workers=data.num_workers,
        cores=len(os.sched_getaffinity(0)),
        precision=str(trainer.precision),
        supports_bf16=on_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        slow_attention=slow_attention(objective, device),
        memory=available(trainer),
        weights=plan.needed.weights,
        per_image=plan.needed.per_image,
        kept_checkpoints=kept,
        scalars=0,  # known after the steps
        pictures=2 * picture * len(probing.dense) * probings,  # files, and in TensorBoard
        free_disk=shutil.disk_usage(Path(disk)).free,
        probings=probings,
        validations=_count(validation.every_n_epochs, epochs) if objective.classifiers() else 0,
    )


def slow_attention(objective: Objective, device: torch.device) -> str:
    """Return why 1.5-entmax attention cannot take its fast path here; "" where it can or is none.

    With a bias, as of LocAtViT, there is none on a GPU; that is no defect of the machine.
    """
    for module in objective.modules():
        if not isinstance(module, Attention) or module.normalizer.alpha != 1.5:
            continue
        if device.type == "cuda" and module.gaug is not None:
            continue
        row = torch.zeros(1, 1, 16, module.qkv.in_features // module.num_heads, device=device)
        try:
            entmax_attention(row, row, row, path="cpu" if device.type == "cpu" else "triton")
        except ValueError as error:
            return str(error)
        return ""
    return ""


def _count(every: int, epochs: int) -> int:
    """Return how often something happens every so many epochs, and after the last."""
    return epochs // every + (epochs % every > 0) if every else 1
