"""Sampler of global batches: a function of seed and epoch, not of the hardware."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from vitlab.data.errors import DataError


class BatchLayout(NamedTuple):
    """global_batch_size = micro_batch_size * world size * accumulate_grad_batches.

    Attributes:
        micro_batch_size: images in one forward pass on one device.
        accumulate_grad_batches: micro-batches in one optimizer step.
    """

    micro_batch_size: int
    accumulate_grad_batches: int


def split_global_batch(
    global_batch_size: int, world_size: int, micro_batch_size: int = 0
) -> BatchLayout:
    """Split a global batch among devices into as few micro-batches as fit.

    Args:
        global_batch_size: images in one optimizer step, over all devices.
        world_size: number of devices.
        micro_batch_size: largest number of images on one device at a time; 0 means no limit.
    """
    per_rank, remainder = divmod(global_batch_size, world_size)
    if remainder:
        allowed = [world_size * count for count in (per_rank, per_rank + 1) if count]
        raise DataError(
            f"global_batch_size {global_batch_size} does not divide among {world_size} devices; "
            f"use a multiple of {world_size}, such as {' or '.join(map(str, allowed))}",
            field="data.global_batch_size",
        )
    accumulate = next(
        count
        for count in range(1, per_rank + 1)
        if per_rank % count == 0 and per_rank // count <= (micro_batch_size or per_rank)
    )
    return BatchLayout(per_rank // accumulate, accumulate)


class GlobalBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Micro-batches of one rank, as lists of (epoch, index), or (epoch, index, copy) if repeated.

    Global batch k of an epoch is permutation[k * batch_size : (k + 1) * batch_size]; the
    remainder is dropped. Each global batch is cut into `accumulate` x `world` pieces, so an
    optimizer step has the same samples on 1 device and on 64. Each index carries its epoch because
    persistent workers hold copies of the dataset.

    Args:
        samples: number of samples in the set.
        batch_size: samples per optimizer step, over all ranks.
        world: number of ranks.
        rank: which of them this is.
        accumulate: micro-batches per optimizer step on each rank.
        seed: of the order.
        repeats: copies of each sample in a row (repeated augmentation, arXiv:1902.05509); an epoch
            is as long as without, so it has fewer samples.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        seed: int = 0,
        repeats: int = 1,
    ):
        if samples < batch_size:
            raise DataError(
                f"{samples} training samples do not fill one batch of {batch_size}; use a "
                f"global_batch_size of at most {samples}, or more data",
                field="data.global_batch_size",
            )
        if batch_size % (world * accumulate):
            raise DataError(
                f"global_batch_size {batch_size} does not divide into {world} ranks x {accumulate} "
                f"micro-batches; use a multiple of {world * accumulate}",
                field="data.global_batch_size",
            )
        self.samples, self.batch_size = samples, batch_size
        self.world, self.rank, self.accumulate = world, rank, accumulate
        self.seed, self.repeats = seed, repeats
        self.epoch = 0
        self.start = (0, 0)

    @property
    def sampler(self) -> "GlobalBatchSampler":
        """Itself: Lightning calls `set_epoch` on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def resume(self, epoch: int, done: int) -> None:
        """Begin at this epoch without its first `done` micro-batches."""
        self.epoch, self.start = epoch, (epoch, done)

    def __len__(self) -> int:
        """Micro-batches per rank in a whole epoch."""
        return self.samples // self.batch_size * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        epoch = self.epoch
        done = self.start[1] if self.start[0] == epoch else 0
        for micro_batch in self.share(epoch)[done:].tolist():
            if self.repeats == 1:
                yield [(epoch, index) for index in micro_batch]
            else:
                yield [(epoch, *divmod(place, self.repeats)) for place in micro_batch]

    def share(self, epoch: int) -> Int[np.ndarray, "micro_batches micro_batch_size"]:
        """Samples of this rank in an epoch: index * repeats + copy."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        if self.repeats > 1:
            order = (order[:, None] * self.repeats + np.arange(self.repeats)).reshape(-1)
        whole = order[: self.samples // self.batch_size * self.batch_size]
        return whole.reshape(len(self), self.world, -1)[:, self.rank]
