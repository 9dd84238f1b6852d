"""A few real steps of a run, timed part by part, before the run is launched.

The steps are those of `vitlab fit`: the same module, loop, precision, loaders and division of the
batch, on one device with its share. Nothing is written and the weights are thrown away.
"""

import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.environments import LightningEnvironment

from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.nan_guard import NotFiniteError
from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.attention import entmax_attention
from vitlab.objectives import Objective
from vitlab.profiling.forecast import COLUMNS, Facts, Timed, Trial
from vitlab.profiling.step_profiler import Parts
from vitlab.profiling.throughput import Tick, loaders, measuring
from vitlab.training.fit import FitCLI
from vitlab.training.plan import RunPlan, available
from vitlab.training.preparing import Preparing

WARM_UP = 2  # steps before those that count: memory is found, kernels are chosen


class Weighing(TorchCheckpointIO):
    """Counts the bytes of a checkpoint instead of writing it."""

    def __init__(self) -> None:
        self.bytes = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        """Serialize it into nothing."""
        counter = Counter()
        torch.save(checkpoint, counter)  # type: ignore[arg-type]
        self.bytes = counter.count


class Counter(io.RawIOBase):
    """A file that only counts what is written."""

    count = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content: Any) -> int:
        """Count bytes."""
        self.count += memoryview(content).nbytes
        return memoryview(content).nbytes


class Stepping(Callback):
    """Takes the steps, and stops after so many."""

    def __init__(self, parts: Parts, steps: int, tick: Tick):
        self.parts, self.steps, self.tick = parts, steps, tick
        self.before = self.peak = self.curves = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at memory before the first step."""
        self.before = self.parts.resident = psutil.Process().memory_info().rss
        if self.parts.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.parts.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.parts.begin()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """End a step with its last micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.parts.end()
            self.tick(f"step {len(self.parts.steps)}")
            trainer.should_stop = len(self.parts.steps) >= self.steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at memory, and weigh a checkpoint while the optimizer is there."""
        if self.parts.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.parts.device)
        else:  # the weights were there before
            here = sum(p.numel() * p.element_size() for p in pl_module.parameters())
            self.peak = here + self.parts.resident - self.before
        self.curves = len(trainer.callback_metrics)
        trainer.save_checkpoint("not written", weights_only=False)


@contextmanager
def refusing() -> Iterator[None]:
    """Let what Lightning refuses be a ValueError, as what vitlab itself refuses."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what it has found here, which the table says."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def rehearse(command: FitCLI, plan: RunPlan, steps: int, tick: Tick) -> tuple[Trial, Facts]:
    """Measure the loaders alone, some steps, a checkpoint, and what the probes read.

    Args:
        command: of a run that was found possible; its model is trained, its batch made that of one
            device, so nothing else can be done with it.
        plan: of `prepare`.
        steps: that count; as many as the run has, where that is less.
        tick: told of everything that is done, for a progress bar.

    Raises:
        ValueError: the steps do not fit into memory, or the loss is not finite.
    """
    whole, data = command.trainer, command.datamodule
    facts = facts_of(command, plan)
    device = whole.strategy.root_device
    data.global_batch_size //= whole.world_size
    parts, weighing = Parts(device), Weighing()
    stepping = Stepping(parts, steps + WARM_UP, tick)
    with TemporaryDirectory() as folder, warnings.catch_warnings():  # for a NaN's traces
        # as `vitlab fit` has it
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        warnings.filterwarnings("ignore", r"Found .* module\(s\) in eval mode")
        trainer = Trainer(
            **{
                **settings(command, plan),
                "callbacks": [Preparing(), stepping],
                "plugins": [*plugins(command), weighing],
                "profiler": parts,
                "default_root_dir": folder,
            }
        )
        loading = loaders(data, tick)
        take(trainer, command, facts)
        probe, score = measuring(command, trainer, tick)
    found = parts.seconds()
    counted = found[min(WARM_UP, len(found) - 1) :]
    trial = Trial(
        step=Timed(tuple(sum(each.values()) for each in counted)),
        parts={name: Timed(tuple(each[name] for each in counted)) for name in counted[0]},
        loading=loading,
        peak=stepping.peak,
        checkpoint=weighing.bytes,
        probe=probe,
        score=score,
    )
    every = command.config_init.trainer.log_every_n_steps or 1
    points = facts.steps_per_epoch * facts.epochs // every
    return trial, replace(facts, scalars=points * (stepping.curves + 2))  # speed has two more


def take(trainer: Trainer, command: FitCLI, facts: Facts) -> None:
    """Take the steps.

    Raises:
        ValueError: they do not fit into memory, or the loss is not finite.
    """
    try:
        trainer.fit(command.model, command.datamodule)
    except torch.OutOfMemoryError as error:
        each = facts.per_device
        fewer = max((n for n in range(1, each) if each % n == 0), default=0)
        remedy = (
            f"try --data.micro_batch_size {fewer}" if fewer else "use a device with more memory"
        )
        raise ValueError(f"{each} images do not fit into memory: {error}; {remedy}") from error
    except FloatingPointError as error:
        # here, the step is not kept
        reason = error.reason if isinstance(error, NotFiniteError) else error
        raise ValueError(f"the run would stop: {reason}") from error


def settings(command: FitCLI, plan: RunPlan) -> dict[str, Any]:
    """Return what the run says of its trainer, on one device that writes nothing."""
    device = command.trainer.strategy.root_device
    return {
        **command.config_init.trainer,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "num_nodes": 1,
        "strategy": "auto",
        "accumulate_grad_batches": plan.division.accumulate_grad_batches,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }


def plugins(command: FitCLI) -> list[Any]:
    """Return the run's own way of computing, in one process whatever a scheduler has started."""
    given = command.config_init.trainer.plugins
    several = given if isinstance(given, list) else [given]
    return [LightningEnvironment(), *(each for each in several if isinstance(each, Precision))]


def facts_of(command: FitCLI, plan: RunPlan) -> Facts:
    """Return what is known of the run before anything is measured."""
    trainer, data = command.trainer, command.datamodule
    probing, validation = command.config_init.probing, command.config_init.validation
    objective, device = command.model.objective, trainer.strategy.root_device
    epochs = trainer.max_epochs or 1
    checkpoints: CheckpointCallback = command.config_init.checkpoint
    every = checkpoints.every_n_epochs
    kept = 2 + (min(checkpoints.keep, epochs // every) if every else 0)
    kept += bool(probing.dense) + bool(objective.classifiers())  # the best
    measured = _times(probing.every_n_epochs, epochs) + 2 * probing.baselines
    name, half = "cpu", False
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    sheet = probing.pictures * COLUMNS * probing.dense_size**2 * 3
    return Facts(
        device=name,
        world=trainer.world_size,
        here=trainer.num_devices,
        batch=data.global_batch_size,
        per_device=plan.division.micro_batch_size,
        accumulate=plan.division.accumulate_grad_batches,
        steps_per_epoch=data.steps_per_epoch,
        epochs=epochs,
        workers=data.num_workers,
        cores=len(os.sched_getaffinity(0)),
        precision=str(trainer.precision),
        half=half,
        slow_attention=slow_attention(objective, device),
        memory=available(trainer),
        weights=plan.needed.weights,
        per_image=plan.needed.per_image,
        kept=kept,
        scalars=0,  # only the steps tell
        pictures=2 * sheet * len(probing.dense) * measured,  # files, and in TensorBoard
        free=shutil.disk_usage(_existing(command.folder)).free,
        measurements=measured,
        scores=_times(validation.every_n_epochs, epochs) if objective.classifiers() else 0,
    )


def slow_attention(objective: Objective, device: torch.device) -> str:
    """Return why 1.5-entmax attention cannot take its fast path here; "" where it can or is none.

    With a bias, as of LocAtViT, there is none on a GPU; that is no defect of the machine.
    """
    for module in objective.modules():
        if isinstance(module, Attention) and module.normalizer.alpha == 1.5:
            if device.type == "cuda" and module.gaug is not None:
                continue
            head = module.qkv.in_features // module.heads
            row = torch.zeros(1, 1, 16, head, device=device)
            try:
                entmax_attention(row, row, row, path="cpu" if device.type == "cpu" else "triton")
            except ValueError as error:
                return str(error)
            return ""
    return ""


def _times(every: int, epochs: int) -> int:
    """How often something is done that is due every so many epochs, and after the last."""
    return epochs // every + (epochs % every > 0) if every else 1


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
