"""Throughput in images per second: of the training loaders alone, and of the probes' encoding."""

import time
from collections.abc import Callable, Iterable
from itertools import chain, islice, repeat
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from vitlab.data import VisionDataModule
from vitlab.probes import InferenceConfig
from vitlab.probes.dense import stack_images
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.features import sharded_loader
from vitlab.training.cli import FitCLI

MAX_SECONDS = 30.0  # after which a loader has been measured for long enough
Progress = Callable[[str], object]  # called with what has been done


def loader_throughput(data: VisionDataModule, progress: Progress) -> float:
    """Return the images per second of the training loaders when nothing else runs."""
    data.setup("fit")
    batches = data.train_dataloader()
    # other crops, in another order, than the steps will see
    batches.batch_sampler.set_epoch(1)  # type: ignore[union-attr]
    found = throughput(batches, data.num_workers, lambda batch: batch.views[0].shape[1], rounds=4)
    progress("loaders")
    return found


def throughput(
    batches: Iterable[Any], num_workers: int, use: Callable[[Any], int], rounds: int = 2
) -> float:
    """Return the images per second of a loader together with a use of its batches.

    Processes deliver in rounds. Half as many as count come before, while the processes start and
    run ahead of each other.

    Args:
        batches: repeated without end; not empty.
        num_workers: processes of the loader.
        use: takes a batch and returns its number of images.
        rounds: that count, at most; one has a batch of each process.
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


def evaluation_seconds(cli: FitCLI, trainer: Trainer, progress: Progress) -> tuple[float, float]:
    """Return the seconds of one probing, and of one validation, to read and encode their images.

    Of each kind of image, a few batches are measured.
    """
    probing, validation = cli.config_init.probing, cli.config_init.validation
    data, objective = cli.datamodule, cli.model.objective
    device, precision = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    objective.to(device)
    inference = InferenceConfig(device, probing.batch_size, probing.num_workers, precision)
    probe_seconds = validation_seconds = 0.0

    def seconds(images: int, loader: DataLoader, how: InferenceConfig) -> float:
        def encode(batch: Any) -> int:
            how.encode(objective.encoder, batch[0]).cls.sum().item()  # waits for a GPU
            return len(batch[0])

        return images / throughput(loader, how.num_workers, encode)

    with eval_mode(objective):
        if data.samples(data.train_split).labels is not None:
            train = data.classification_dataset(data.train_split, probing.size, probing.images)
            val = data.classification_dataset(data.val_split, probing.size)
            loader = sharded_loader(train, inference)
            probe_seconds += seconds(len(train) + len(val), loader, inference)
            progress("image probes")
        for name, source in probing.dense.items():
            train = source.segmentation_dataset(
                source.train_split, probing.view, probing.dense_images
            )
            val = source.segmentation_dataset(source.val_split, probing.view)
            loader = sharded_loader(train, inference, stack_images)
            probe_seconds += seconds(len(train) + len(val), loader, inference)
            progress(f"dense probe of {name}")
        if classifiers := objective.classifiers():
            size = validation.size or data.transform.crop_sizes[0][1]
            val = data.classification_dataset(data.val_split, size, crop=validation.crop)
            inference = InferenceConfig(
                device, validation.batch_size, validation.num_workers, precision
            )
            loader = sharded_loader(val, inference)
            validation_seconds = len(classifiers) * seconds(len(val), loader, inference)
            progress("validation")
    world_size = cli.trainer.world_size  # ranks share the images
    return probe_seconds / world_size, validation_seconds / world_size
