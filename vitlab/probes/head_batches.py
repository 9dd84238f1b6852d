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
from vitlab.probes.features import InferenceConfig
from vitlab.probes.recipe import StepSampler

HELD_OUT = 10  # every tenth training image decides, where a recipe says "held out"


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


def split_chunks(x: Tensor, places: StepSampler) -> Iterator[Tensor]:
    """Split this rank's part of a batch into what passes the encoder at a time."""
    yield from x.split(places.chunk)


def holdout_split(
    images: int, held_out: bool
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
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


def settings_repr(value: object) -> object:
    """Return settings as something whose repr says all of them, and no address in memory."""
    if isinstance(value, list | tuple):
        return [settings_repr(each) for each in value]
    if hasattr(value, "__dict__"):
        named = sorted(vars(value).items())
        return [type(value).__name__, [(name, settings_repr(each)) for name, each in named]]
    return value


def single_image_config(loading: InferenceConfig) -> InferenceConfig:
    """Return how test images are loaded: one by one, since each has its own size."""
    return InferenceConfig(loading.device, 1, loading.num_workers, loading.precision)


def first_item(items: list) -> Any:
    """Collate a batch of one."""
    return items[0]
