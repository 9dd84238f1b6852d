"""Checks for NaN and infinity in features and logits."""

import torch
from torch import Tensor

from vitlab import distributed
from vitlab.errors import InputError


def check_finite(*features: Tensor) -> None:
    """Refuse features with NaN or infinity, by one pass, without a copy.

    Raises:
        InputError: there is one.
    """
    if not sum_of(*features).isfinite():
        raise InputError(
            "features are not finite: the weights are damaged, the encoder has diverged, or its "
            "precision does not hold its values; use a healthy checkpoint, or fp32",
            field="features",
        )


def sum_of(*tensors: Tensor) -> Tensor:
    """Return the sum of all values, which is finite if they are: in fp64 fp32 has no overflow."""
    return torch.stack([tensor.sum(dtype=torch.float64) for tensor in tensors]).sum()


class FinitenessMonitor:
    """Whether all observed tensors were finite, without waiting for the device.

    Args:
        device: of the tensors.
    """

    def __init__(self, device: torch.device):
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def observe(self, x: Tensor) -> Tensor:
        """Return x unchanged."""
        self._total = self._total + sum_of(x)
        return x

    def finite(self) -> bool:
        """Whether all were, on all ranks; to be called on each of them."""
        return bool(distributed.all_reduce_mean(self._total).isfinite())
