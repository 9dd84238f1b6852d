"""Precision of what is computed: never below fp32, and never below that of the input."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Return x in fp32 where it is less precise, else as it is: fp64 stays fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
