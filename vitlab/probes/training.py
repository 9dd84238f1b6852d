"""Batches of features for heads: the same on any number of ranks."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitlab import distributed
from vitlab.data.dataset import init_worker
from vitlab.probes.probe import Loading
from vitlab.probes.recipe import Places

HELD_OUT = 10  # every tenth training image decides, where a recipe says "held out"


def training_loader(
    images: Dataset, places: Places, workers: int, collate: Callable[[list], Any]
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


def whole(x: Tensor, places: Places) -> Tensor:
    """Return the rows of the whole batch from those of each rank's chunks, in order."""
    if distributed.world() == 1:
        return x
    chunks = distributed.gather(x.unflatten(0, (-1, places.chunk)).contiguous())
    return chunks[: places.chunks].flatten(0, 1)


def chunks(x: Tensor, places: Places) -> Iterator[Tensor]:
    """Split this rank's part of a batch into what passes the encoder at a time."""
    yield from x.split(places.chunk)


def split(images: int, held_out: bool) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return the images to train on, and those held out: a tenth, by a fixed permutation.

    Raises:
        ValueError: there are too few.
    """
    if not held_out:
        return np.arange(images), np.arange(0)
    if images < 2:
        raise ValueError(
            f"{images} training image cannot be split; select last or val, or use more images"
        )
    shuffled = np.random.default_rng(0).permutation(images)
    count = max(images // HELD_OUT, 1)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def keys_of(value: object) -> object:
    """Return settings as something whose repr says all of them, and no address in memory."""
    if isinstance(value, list | tuple):
        return [keys_of(each) for each in value]
    if hasattr(value, "__dict__"):
        named = sorted(vars(value).items())
        return [type(value).__name__, [(name, keys_of(each)) for name, each in named]]
    return value


def loading_of_one(loading: Loading) -> Loading:
    """Return how test images are loaded: one by one, since each has its own size."""
    return Loading(loading.device, 1, loading.workers, loading.precision)


def first(items: list) -> Any:
    """Collate a batch of one."""
    return items[0]
