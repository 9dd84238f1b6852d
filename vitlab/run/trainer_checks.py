"""Settings and callbacks of the trainer that a run cannot use."""

from collections.abc import Mapping
from typing import Any

from lightning import Trainer
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

from vitlab.errors import InputError

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
    """Refuse options of the trainer that other options of `vitlab fit` decide.

    Raises:
        InputError: one of them is set.
    """
    for name, (allowed, reason) in OPTIONS.items():
        if config[name] not in allowed:
            field = f"trainer.{name}"
            raise InputError(f"{field} {config[name]} {reason}", field=field)


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
