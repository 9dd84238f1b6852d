"""Features and logits that are no numbers: refused, or remembered."""

import torch
from torch import Tensor

from vitlab import distributed


def check_finite(*features: Tensor) -> None:
    """Refuse features with NaN or infinity, by one pass, without a copy.

    Raises:
        ValueError: what may be the cause, and what to do.
    """
    if not sum_of(*features).isfinite():
        raise ValueError(
            "features are not finite: the weights are damaged, the encoder has diverged, or its "
            "precision does not hold its values; use a healthy checkpoint, or fp32"
        )


def sum_of(*tensors: Tensor) -> Tensor:
    """Return the sum of all values, which is finite if they are: in fp64 fp32 has no overflow."""
    return torch.stack([tensor.sum(dtype=torch.float64) for tensor in tensors]).sum()


class FinitenessMonitor:
    """Remembers whether all that passed was finite, without waiting for the device.

    Args:
        device: of what passes.
    """

    def __init__(self, device: torch.device):
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def see(self, x: Tensor) -> Tensor:
        """Return x."""
        self._total = self._total + sum_of(x)
        return x

    def finite(self) -> bool:
        """Whether it was, on all ranks; all of them must ask."""
        return bool(distributed.all_reduce_mean(self._total).isfinite())
