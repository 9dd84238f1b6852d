"""Gradient clipping: per parameter, as DINO, or by the global norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def clip_per_parameter(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradient of every tensor to an L2 norm of at most `max_norm`; 0 for no limit.

    Returns:
        The norm of all gradients together, before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    if max_norm:
        factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
        for gradient, factor in zip(gradients, factors, strict=True):
            gradient.mul_(factor)
    return norms.norm()


def clip_global(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients by one factor to a global norm of at most `max_norm`; 0 for no limit.

    Returns:
        The norm of all gradients together, before clipping.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if max_norm:
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return norm
