"""AdamW as DINO uses it: schedules for each step, no decay of biases, a clip for each tensor."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitlab.schedules import Cosine, Progress

RATE_BATCH = 256  # images; the batch a learning rate is stated for


@dataclass(frozen=True)
class Optimizer:
    """Settings of AdamW; the defaults are DINO's (arXiv:2104.14294).

    Args:
        rate: peak learning rate per 256 images of the global batch.
        final_rate: learning rate the cosine ends at, whatever the batch.
        warmup: epochs of linear increase from 0.
        decay: weight decay at the start, of tensors with more than one dimension.
        final_decay: weight decay the cosine ends at.
        clip: largest L2 norm of the gradient of each tensor by itself; 0 for no limit.
        betas: averaging of the gradient and of its square.
    """

    rate: float = 5e-4
    final_rate: float = 1e-6
    warmup: int = 10
    decay: float = 0.04
    final_decay: float = 0.4
    clip: float = 3.0
    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, module: nn.Module) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters of a module."""
        # not the fused one: it unscales fp16 gradients itself, after they would have been clipped
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=self.betas, foreach=True)

    def learning_rate(self, progress: Progress) -> float:
        """Return the learning rate of the step about to be taken."""
        peak = self.rate * progress.batch / RATE_BATCH
        return Cosine(peak, self.final_rate, self.warmup)(progress)

    def weight_decay(self, progress: Progress) -> float:
        """Return the weight decay of the step about to be taken."""
        return Cosine(self.decay, self.final_decay)(progress)

    def schedule(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Set both for the step about to be taken."""
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = self.learning_rate(progress)
            if index == 0:
                group["weight_decay"] = self.weight_decay(progress)


def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradient of every tensor to a norm of at most `limit`; 0 leaves them alone.

    Returns:
        The norm of all gradients together, before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if limit:
        factors = (limit / (norms + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms.norm()
