"""Collectives over ranks; on one process, the identity."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce_mean(x: Tensor) -> Tensor:
    """Return the mean of x over ranks, the same on each."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / world_size()


def all_reduce_max(values: Sequence[int]) -> list[int]:
    """Return the highest of each value over ranks, the same on each."""
    if world_size() == 1:
        return list(values)
    # NCCL works on tensors of the rank's own device only
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    x = torch.tensor(values, dtype=torch.long, device=device)
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x.tolist()


def all_gather_rows(x: Tensor) -> Tensor:
    """Undo a round-robin split: row i is row i // world_size of rank i % world_size.

    Ranks may differ by one row, as the shards of a set of images do.
    """
    if world_size() == 1:
        return x
    counts = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor(len(x), device=x.device))
    longest = max(int(count) for count in counts)
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    dealt = torch.stack(parts, dim=1).flatten(0, 1)
    return dealt[: sum(int(count) for count in counts)]
