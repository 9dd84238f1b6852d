"""Scenes and numbers for tests of what is measured."""

import torch

from vitlab.analysis.measures.context import BatchContext


def scene_of(b=2, grid=(3, 4), prefix=1, fore=None):
    """Images whose objects are the given patches; none by default."""
    p = grid[0] * grid[1]
    fore = torch.zeros(b, p, dtype=torch.bool) if fore is None else fore
    back = ~fore if fore.any() else torch.zeros_like(fore)
    order = torch.randperm(p, generator=torch.Generator().manual_seed(0))
    return BatchContext(grid, 16, prefix, fore, back, order, p)


def drawn(*shape, seed=0):
    """Normal numbers, the same ones for a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
