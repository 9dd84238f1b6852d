"""How fast images come: from the training loaders alone, and through the encoder for the probes."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.dense import stack_images
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.features import sharded_loader
from vitlab.training.fit import FitCLI

PATIENCE = 30.0  # seconds after which loaders have been measured for long enough
Tick = Callable[[str], object]  # told what has been done


def loaders(data: VisionDataModule, tick: Tick) -> float:
    """Return the images per second of the training loaders when nothing else runs."""
    data.setup("fit")
    batches = data.train_dataloader()
    # other crops, in another order, than the steps will see
    batches.batch_sampler.set_epoch(1)  # type: ignore[union-attr]
    rate = pace(batches, data.num_workers, lambda batch: batch.views[0].shape[1], rounds=4)
    tick("loaders")
    return rate


def pace(batches: Iterable[Any], workers: int, use: Callable[[Any], int], rounds: int = 2) -> float:
    """Return the images per second of a loader and what is done with its batches.

    Processes deliver in rounds. Half as many as count come before, while the processes start and
    run ahead of each other.

    Args:
        batches: gone through again and again; not empty.
        workers: processes of the loader.
        use: is given a batch and returns its images.
        rounds: that count, at most; a batch of each process is one.
    """
    turn = max(1, workers)
    supply = _again(batches)
    for batch in islice(supply, turn * rounds // 2):
        use(batch)
    images, began = 0, time.perf_counter()
    for _ in range(rounds):
        images += sum(use(batch) for batch in islice(supply, turn))
        if time.perf_counter() - began > PATIENCE:
            break
    return images / (time.perf_counter() - began)


def _again(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def measuring(command: FitCLI, trainer: Trainer, tick: Tick) -> tuple[float, float]:
    """Return the seconds in which one measurement, and one scoring, read and encode their images.

    A few batches are measured, of each kind of image.
    """
    probing, validation = command.config_init.probing, command.config_init.validation
    data, objective = command.datamodule, command.model.objective
    device, precision = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    objective.to(device)
    world = command.trainer.world_size  # who share the images
    loading = InferenceConfig(device, probing.batch_size, probing.num_workers, precision)
    probe = score = 0.0
    with eval_mode(objective):
        if data.samples(data.train_split).labels is not None:
            images = [data.classification_dataset(data.train_split, probing.size, probing.images)]
            images.append(data.classification_dataset(data.val_split, probing.size))
            loader = sharded_loader(images[0], loading)
            probe += sum(map(len, images)) / _encoding(objective.encoder, loader, loading)
            tick("image probes")
        for name, source in probing.dense.items():
            masked = [
                source.segmentation_dataset(source.train_split, probing.view, probing.dense_images)
            ]
            masked.append(source.segmentation_dataset(source.val_split, probing.view))
            dense = sharded_loader(masked[0], loading, stack_images)
            probe += sum(map(len, masked)) / _encoding(objective.encoder, dense, loading)
            tick(f"dense probe of {name}")
        classifiers = objective.classifiers()
        if classifiers:
            size = validation.size or data.transform.crop_sizes[0][1]
            shown = data.classification_dataset(data.val_split, size, crop=validation.crop)
            loading = InferenceConfig(
                device, validation.batch_size, validation.num_workers, precision
            )
            loader = sharded_loader(shown, loading)
            once = len(shown) / _encoding(objective.encoder, loader, loading)
            score = len(classifiers) * once
            tick("scores")
    return probe / world, score / world


def _encoding(encoder: Encoder, loader: DataLoader, loading: InferenceConfig) -> float:
    """Return the images per second that are read and encoded."""

    def encode(batch: Any) -> int:
        tokens = loading.encode(encoder, batch[0])
        tokens.cls.sum().item()  # waits for a GPU
        return len(batch[0])

    return pace(loader, loading.num_workers, encode)
