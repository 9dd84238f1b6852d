"""Ranks of numbers, for AUROC and Spearman's correlation.

Axis letters: b rows, k numbers.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def average_ranks(x: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Return the rank of each number in its row, from 1; equal ones share the mean of theirs."""
    ordered = x.contiguous().sort(dim=-1).values
    below = torch.searchsorted(ordered, x.contiguous(), right=False)
    upto = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (below + upto + 1).to(x.dtype) / 2


def correlation(x: Float[Tensor, "#b k"], y: Float[Tensor, "#b k"]) -> Float[Tensor, " b"]:
    """Return Pearson's correlation of two rows; NaN where one of them is constant."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    scale = x.norm(dim=-1) * y.norm(dim=-1)
    return ((x * y).sum(-1) / scale).masked_fill(scale == 0, torch.nan)
