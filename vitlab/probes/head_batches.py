"""Loading and gathering of the batches of head training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitlab import distributed
from vitlab.data.loader import init_worker
from vitlab.errors import InputError
from vitlab.probes.recipe import StepSampler

HELD_OUT = 10  # share of the training images for selection on held-out images: 1 / HELD_OUT


def training_loader(
    images: Dataset, places: StepSampler, workers: int, collate: Callable[[list], Any]
) -> DataLoader:
    """Return a loader of this rank's part of each step; it draws no random number of the run."""
    return DataLoader(
        images,
        batch_sampler=places,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def gather_batch(x: Tensor, places: StepSampler) -> Tensor:
    """Return the rows of the whole batch from those of each rank's chunks, in order."""
    if distributed.world_size() == 1:
        return x
    chunks = distributed.all_gather_rows(x.unflatten(0, (-1, places.chunk)).contiguous())
    return chunks[: places.chunks].flatten(0, 1)


def holdout_split(
    images: int, held_out: bool
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return the images to train on, and those held out: a tenth, by a fixed permutation.

    Raises:
        InputError: there are too few.
    """
    if not held_out:
        return np.arange(images), np.arange(0)
    if images < 2:
        raise InputError(
            f"{images} training image cannot be split; select last or val, or use more images",
            field="protocol.recipe.select",
        )
    shuffled = np.random.default_rng(0).permutation(images)
    count = max(images // HELD_OUT, 1)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def settings_repr(value: object) -> object:
    """Return public settings as nested lists, whose repr has no address in memory."""
    if isinstance(value, list | tuple):
        return [settings_repr(each) for each in value]
    if hasattr(value, "__dict__"):
        public = sorted(name for name in vars(value) if not name.startswith("_"))
        return [type(value).__name__, [(name, settings_repr(vars(value)[name])) for name in public]]
    return value
