"""Settings and callbacks of the trainer that a run cannot use."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import StrategyRegistry

from vitlab.errors import InputError, did_you_mean

TIME = "would end the run for good, within an epoch; leave it out and start the run as "
TIME += "`timeout 6h vitlab fit ...`, which asks it to stop: it can go on with --ckpt_path last"
NO_LOOP = "would be ignored, as there is no validation loop; set probing.every_n_epochs and "
NO_LOOP += "probing.images, or validation.every_n_epochs"
# what an option of `vitlab fit` may be, and why it may be nothing else
OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "default_root_dir": ((None,), "would be ignored; use --run-dir"),
    "accumulate_grad_batches": ((1,), "would be ignored; use --data.micro_batch_size"),
    "max_time": ((None,), TIME),
    "overfit_batches": ((0,), "would train on other images in each epoch, as each has an order of "
     "its own; use a folder of a few images"),
    "limit_val_batches": ((None,), NO_LOOP),
    "val_check_interval": ((None,), NO_LOOP),
    "check_val_every_n_epoch": ((1, None), NO_LOOP),
    "num_sanity_val_steps": ((None, 0), NO_LOOP),
    "enable_checkpointing": ((None, True), "would leave nothing to go on from; fewer are written "
     "with --checkpoint.minutes 0"),
    "gradient_clip_algorithm": ((None,), "would be ignored; set model.optimizer.clip_grad_norm"),
    "use_distributed_sampler": ((False,), "is not for these data, which deal out global batches "
     "themselves; leave it out"),
    "reload_dataloaders_every_n_epochs": ((0,), "would change nothing, as files are listed once; "
     "leave it out"),
    "barebones": ((False,), "would leave out curves and checkpoints; to measure speed use vitlab "
     "plan"),
}  # fmt: skip
# callbacks of Lightning that would change what the config decides, and what to set instead
CALLBACKS: dict[type, str] = {
    GradientAccumulationScheduler: "data.global_batch_size and data.micro_batch_size",
    StochasticWeightAveraging: "model.optimizer.lr_schedule; the teacher of DINO is an average of "
    "weights, as is model.objective.ema_decay of Classification",
    WeightAveraging: "model.objective.ema_decay of Classification; the teacher of DINO is an "
    "average of weights, and probes would not measure those in the checkpoints",
    LearningRateFinder: "model.optimizer.lr, as trials with `vitlab fit` show it",
    BatchSizeFinder: "data.micro_batch_size, as `vitlab plan` finds it",
    BaseFinetuning: "the classes of model.objective, which decide what is trained",
    ModelPruning: "another encoder",
    Timer: "nothing: it " + TIME,
}


def check_options(config: Mapping[str, Any]) -> None:
    """Refuse options of the trainer that other options of `vitlab fit` decide, and unknown names.

    Raises:
        InputError: one of them is set, or names what does not exist.
    """
    names = {
        "accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
        "strategy": ("auto", *StrategyRegistry.available_strategies()),
        "profiler": ("simple", "advanced", "pytorch", "xla"),
    }
    for name, known in names.items():
        if isinstance(value := config[name], str) and value not in known:
            field = f"trainer.{name}"
            hint = did_you_mean(value, known) or f"known are {', '.join(sorted(known))}"
            raise InputError(f"there is no {field} {value}; {hint}".strip(), field=field)
    for name, (allowed, reason) in OPTIONS.items():
        if config[name] not in allowed:
            field = f"trainer.{name}"
            raise InputError(f"{field} {config[name]} {reason}", field=field)


def check_gpu(accelerator: object) -> None:
    """Refuse a GPU where torch finds none.

    Raises:
        InputError: there is none of this kind.
    """
    usable = {"cuda": CUDAAccelerator.is_available(), "mps": MPSAccelerator.is_available()}
    if accelerator in ("gpu", *usable) and not usable.get(str(accelerator), any(usable.values())):
        raise InputError(
            f"trainer.accelerator {accelerator}, but torch {torch.__version__} finds no such "
            "device here; use --trainer.accelerator cpu or auto, or see to the driver "
            "(`nvidia-smi`) and to a build of torch for it",
            field="trainer.accelerator",
        )


def make_trainer(config: Mapping[str, Any]) -> Trainer:
    """Return a trainer.

    Args:
        config: its arguments.

    Raises:
        InputError: an option that it refuses, or a precision that it would replace.
    """
    asked = str(config.get("precision"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")
        try:
            trainer = Trainer(**config)
        except (TypeError, ImportError, MisconfigurationException) as error:
            named = [name for name in config if re.search(rf"\b{name}\b", str(error))]
            given = "".join(f".{name} {config[name]}" for name in named[:1])
            field = f"trainer{given.partition(' ')[0]}"
            raise InputError(f"trainer{given}: {error}", field=field) from error
    if asked.startswith("16") and str(trainer.precision).startswith("bf16"):
        raise InputError(
            f"trainer.precision {asked} is not for CPUs, where bf16-mixed would take its place "
            "without a word; use bf16-mixed or 32-true",
            field="trainer.precision",
        )
    return trainer


def check_trainer(trainer: Trainer) -> None:
    """Refuse settings of the trainer that would be ignored or spoil a run.

    Raises:
        InputError: the length, the precision, the clipping of gradients, or a callback.
    """
    epochs, precision = trainer.max_epochs or 0, str(trainer.precision)
    launcher = type(trainer.strategy.launcher).__name__
    problems = {
        "fast_dev_run": "writes no checkpoints and no curves; use --dry-run, `vitlab plan`, which "
        "takes some real steps, or trainer.limit_train_batches"
        if trainer.fast_dev_run  # type: ignore[attr-defined]
        else "",
        "max_epochs": f"is {trainer.max_epochs} and max_steps {trainer.max_steps}, but schedules "
        "count in epochs; set trainer.max_epochs to at least 1 and leave max_steps"
        if epochs < 1 or trainer.max_steps != -1
        else "",
        "limit_train_batches": f"{trainer.limit_train_batches} leaves nothing to train on; use 1 "
        "or more micro-batches, or a share of the epoch above 0"
        if trainer.limit_train_batches == 0
        else "",
        "precision": f"{precision} is not for training: in 16 bits a moving average loses its "
        "small steps, and images have 32; use bf16-mixed, 16-mixed or 32-true"
        if precision.endswith("-true") and precision != "32-true"
        else "",
        "gradient_clip_val": "clips all gradients together and would be ignored; set "
        "model.optimizer.clip_grad_norm, and model.optimizer.clip_mode: per_parameter as in "
        "DINO, or global"
        if trainer.gradient_clip_val is not None
        else "",
        "strategy": "starts its processes without the command, so that they could not be watched "
        "and stopped; use ddp"
        if launcher == "_MultiProcessingLauncher"
        else "",
    }
    for name, problem in problems.items():
        if problem:
            raise InputError(f"trainer.{name} {problem}", field=f"trainer.{name}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, instead in CALLBACKS.items():
            if isinstance(callback, kind):
                raise InputError(
                    f"the callback {type(callback).__name__} would change what the config of the "
                    f"run decides; leave it out and set {instead}",
                    field="trainer.callbacks",
                )
