"""Trial of a run: a few real steps, timed by parts, before it is launched.

The steps are those of `vitlab fit`: the same module, loop, precision, loaders and batch layout, on
one device with its share. Nothing is written and the weights are thrown away.
"""

import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, islice, repeat
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.utils.data import Dataset

from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.callbacks.nan_guard import NaNGuard, NotFiniteError
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.validation import Validation
from vitlab.errors import InputError
from vitlab.probes.dense import stack_images
from vitlab.probes.features import eval_mode, sharded_loader
from vitlab.profiling.forecast import RunFacts, TrialResult
from vitlab.profiling.step_profiler import CheckpointSize, StepProfiler, TrialSteps
from vitlab.run.lightning_compat import ignore_known_warnings
from vitlab.training.cli import FitCLI
from vitlab.training.plan import RunPlan, available

WARM_UP = 2  # steps that do not count: memory is allocated, kernels are chosen
PICTURE_COLUMNS = 5  # of the grids of the probes
MAX_SECONDS = 30.0  # after which a loader has been measured for long enough


def run_trial(cli: FitCLI, plan: RunPlan, steps: int) -> tuple[TrialResult, RunFacts]:
    """Measure the loaders alone, some steps, a checkpoint, and the probes' encoding.

    Args:
        cli: of a run that passed its checks; its model is trained and its batch reduced to that of
            one device, so it cannot be used any further.
        plan: of the run.
        steps: that count; fewer where the run is shorter.

    Raises:
        InputError: the steps do not fit into memory, or the loss is not finite.
    """
    facts, device = run_facts(cli, plan), cli.trainer.strategy.root_device
    cli.datamodule.global_batch_size //= cli.trainer.world_size
    profiler, checkpoint_size = StepProfiler(device), CheckpointSize()
    trial_steps = TrialSteps(profiler, steps + WARM_UP)
    with TemporaryDirectory() as folder, warnings.catch_warnings():  # for the traces of a NaN
        ignore_known_warnings()
        own = {"default_root_dir": folder, "profiler": profiler}
        callbacks = [NaNGuard(), trial_steps]
        trainer = one_device_trainer(cli, callbacks=callbacks, plugins=[checkpoint_size], **own)
        cli.datamodule.setup("fit")
        batches = cli.datamodule.train_dataloader()
        # other crops, in another order, than the steps will see
        batches.batch_sampler.set_epoch(1)
        loading = throughput(batches, facts.num_workers, lambda b: b.views[0].shape[1], rounds=4)
        try:
            trainer.fit(cli.model, cli.datamodule)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{facts.micro_batch_size} images do not fit into memory: {error}; use a smaller "
                "--data.micro_batch_size, which accumulates",
                field="data.micro_batch_size",
            ) from error
        except FloatingPointError as error:
            # the step is not kept here
            reason = error.reason if isinstance(error, NotFiniteError) else error
            raise InputError(f"the run would stop: {reason}") from error
        probe_seconds, validation_seconds = evaluation_seconds(cli, trainer)
    every = profiler.seconds()
    trial = TrialResult(
        steps=every[min(WARM_UP, len(every) - 1) :],
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


def one_device_trainer(cli: FitCLI, plugins: list[Any], **more: Any) -> Trainer:
    """Return a trainer with the run's settings, for one device and without files."""
    device, given = cli.trainer.strategy.root_device, cli.config_init.trainer.plugins
    given = given if isinstance(given, list) else [given]
    plugins = [*plugins, *(each for each in given if isinstance(each, Precision))]
    own: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "num_nodes": 1,
        "strategy": "auto",
        "accumulate_grad_batches": cli.trainer.accumulate_grad_batches,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False),
        # one process also where SLURM has started several
        "plugins": [LightningEnvironment(), *plugins],
    }
    return Trainer(**{**cli.config_init.trainer, **own, **more})


def throughput(
    batches: Iterable[Any], num_workers: int, use: Callable[[Any], int], rounds: int = 2
) -> float:
    """Return the images per second of a loader together with a use of its batches.

    Processes deliver in rounds, a batch each. Half as many as count come before, while the
    processes start and run ahead of each other.

    Args:
        batches: repeated without end; not empty.
        num_workers: processes of the loader.
        use: takes a batch and returns its number of images.
        rounds: that count, at most.
    """
    turn = max(1, num_workers)
    supply = chain.from_iterable(repeat(batches))
    for batch in islice(supply, turn * rounds // 2):
        use(batch)
    images, began = 0, time.perf_counter()
    for _ in range(rounds):
        images += sum(use(batch) for batch in islice(supply, turn))
        if time.perf_counter() - began > MAX_SECONDS:
            break
    return images / (time.perf_counter() - began)


def evaluation_seconds(cli: FitCLI, trainer: Trainer) -> tuple[float, float]:
    """Return the seconds of one probing, and of one validation, to read and encode their images.

    Of each kind of image, a few batches are measured.
    """
    probing, validation = cli.find(OnlineProbes), cli.find(Validation)
    data, objective = cli.datamodule, cli.model.objective.to(trainer.strategy.root_device)

    def seconds(
        images: Dataset, others: int, settings: EvaluationCallback, collate: Any = None
    ) -> float:
        how = settings.inference(trainer)

        def encode(batch: Any) -> int:
            how.encode(objective.encoder, batch[0]).cls.sum().item()  # waits for a GPU
            return len(batch[0])

        rate = throughput(sharded_loader(images, how, collate), how.num_workers, encode)
        return (len(images) + others) / rate / cli.trainer.world_size  # type: ignore[arg-type]

    probe_seconds = 0.0
    with eval_mode(objective):
        if probing and data.samples(data.train_split).labels is not None:
            train = data.classification_dataset(data.train_split, probing.size, probing.images)
            probe_seconds += seconds(train, len(data.samples(data.val_split)), probing)
        for source in probing.dense.values() if probing else ():
            assert probing is not None
            dense = source.segmentation_dataset(
                source.train_split, probing.view, probing.dense_images
            )
            others = len(source.samples(source.val_split))
            probe_seconds += seconds(dense, others, probing, stack_images)
        classifiers = len(objective.classifiers())
        if not classifiers or validation is None:
            return probe_seconds, 0.0
        size = validation.size or data.transform.crop_sizes[0][1]
        val = data.classification_dataset(data.val_split, size, crop=validation.crop)
        return probe_seconds, classifiers * seconds(val, 0, validation)


def run_facts(cli: FitCLI, plan: RunPlan) -> RunFacts:
    """Return the settings of a run and properties of the machine, before anything is measured."""
    trainer, data, objective = cli.trainer, cli.datamodule, cli.model.objective
    probing, validation = cli.find(OnlineProbes), cli.find(Validation)
    checkpoint: CheckpointCallback = cli.config_init.checkpoint
    device, epochs = trainer.strategy.root_device, trainer.max_epochs or 1
    every = checkpoint.every_n_epochs
    kept = min(checkpoint.keep, epochs // every) if every else 0
    probings = sets = picture = 0
    if probing is not None:
        probings = _count(probing.every_n_epochs, epochs) + 2 * probing.baselines
        picture = probing.pictures * PICTURE_COLUMNS * probing.dense_size**2 * 3
        sets = len(probing.dense)
    scored = validation is not None and bool(objective.classifiers())
    folder = cli.folder.absolute()
    on_gpu = device.type == "cuda"
    return RunFacts(
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        world_size=trainer.world_size,
        local_devices=trainer.num_devices,
        global_batch_size=data.global_batch_size,
        micro_batch_size=plan.layout.micro_batch_size,
        accumulate_grad_batches=plan.layout.accumulate_grad_batches,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=epochs,
        num_workers=data.num_workers,
        cores=len(os.sched_getaffinity(0)),
        precision=str(trainer.precision),
        supports_bf16=on_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        memory=available(trainer),
        weights=plan.weights,
        per_image=plan.per_image,
        # the last two, and the best by each score
        kept_checkpoints=2 + kept + bool(sets) + scored,
        scalars=0,  # known after the steps
        pictures=2 * picture * sets * probings,  # files, and in TensorBoard
        free_disk=shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free,
        probings=probings,
        validations=_count(validation.every_n_epochs, epochs) if validation and scored else 0,
    )


def _count(every: int, epochs: int) -> int:
    """Return how often something happens every so many epochs, and after the last."""
    return math.ceil(epochs / every) if every else 1
