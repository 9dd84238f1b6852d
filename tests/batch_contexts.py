"""Batch contexts and numbers for tests of measures."""

import torch

from vitlab.analysis.measures.context import BatchContext, no_objects


def context_of(b=2, grid=(3, 4), prefix=1, fore=None):
    """The context of images whose objects are the given patches; without masks by default."""
    none = no_objects(b, grid, torch.device("cpu"))
    labels = none if fore is None or not fore.any() else (fore, ~fore)
    return BatchContext(grid, 16, prefix, *labels, rows=grid[0] * grid[1])


def drawn(*shape, seed=0):
    """Normal numbers, the same ones for a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
