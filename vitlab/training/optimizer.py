"""The optimizer: DINO's AdamW by default, with schedules for each step and clipped gradients."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from vitlab.schedules import Cosine, Progress
from vitlab.training.course import Course

TOKENS = {"cls_token", "reg_token", "pos_embed"}  # learned inputs of an encoder, no weights


@dataclass(frozen=True)
class Rules:
    """Which tensors are clipped and decayed, and how; the defaults are DINO's.

    Args:
        clip: "each" limits the gradient of each tensor by itself, "all" that of all together.
        tokens: whether [CLS], registers and positions decay as weights do; DeiT and timm spare
            them.
        vectors: whether tensors with one dimension, biases and factors, decay too, as in TCPA.
        independent: whether the decay is what a step at the peak rate takes off the weights, as in
            big_vision; else it is that share divided by the rate, as torch's AdamW has it.
    """

    clip: Literal["each", "all"] = "each"
    tokens: bool = True
    vectors: bool = False
    independent: bool = False


@dataclass(frozen=True)
class Optimizer:
    """Settings of the optimizer; the defaults are DINO's (arXiv:2104.14294).

    Args:
        rate: peak learning rate per 256 images of the global batch, or as many as `course` says.
        final_rate: learning rate at the end, whatever the batch.
        warmup: epochs of linear increase from 0, or from what `course` says.
        decay: weight decay at the start; of tensors with more than one dimension, see rules.
        final_decay: weight decay the cosine ends at.
        clip: largest L2 norm of the gradient of each tensor by itself; 0 for no limit.
        betas: averaging of the gradient and of its square.
        kind: adamw, or lamb (arXiv:1904.00962) by timm, which itself scales gradients down to a
            norm of 1 over all tensors, as the fused LAMB of DeiT-III does.
        course: the way of the learning rate.
        rules: which tensors are clipped and decayed, and how.
    """

    rate: float = 5e-4
    final_rate: float = 1e-6
    warmup: int = 10
    decay: float = 0.04
    final_decay: float = 0.4
    clip: float = 3.0
    betas: tuple[float, float] = (0.9, 0.999)
    kind: Literal["adamw", "lamb"] = "adamw"
    course: Course = Course()  # noqa: RUF009, frozen as well
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        """Refuse what would have another meaning than it says."""
        if self.kind == "lamb" and self.rules.independent:
            raise ValueError(
                "model.optimizer.rules.independent is asked of lamb, where the decay takes part in "
                "the size of the step; use kind adamw, or leave it out"
            )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the trainable parameters of a module."""
        decayed: list[nn.Parameter] = []
        spared: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                token = not self.rules.tokens and name.rpartition(".")[2] in TOKENS
                vector = not self.rules.vectors and parameter.ndim <= 1
                (spared if vector or token else decayed).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": spared, "weight_decay": 0.0},
        ]
        if self.kind == "lamb":
            return create_optimizer_v2(groups, "lamb", betas=self.betas, eps=1e-8)
        optimizer = torch.optim.AdamW(groups, betas=self.betas, fused=True)
        # fused, it would unscale fp16 gradients itself, after they have been clipped; told not to,
        # the scaler unscales them before, as for any other optimizer
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def peak(self, batch: int) -> float:
        """Return the highest learning rate for a global batch of so many images."""
        return self.course.peak(self.rate, batch)

    def learning_rate(self, progress: Progress) -> float:
        """Return the learning rate of the step about to be taken."""
        return self.course(progress, self.peak(progress.batch), self.final_rate, self.warmup)

    def weight_decay(self, progress: Progress) -> float:
        """Return the weight decay of the step about to be taken."""
        decay = Cosine(self.decay, self.final_decay)(progress)
        return decay / self.peak(progress.batch) if self.rules.independent else decay

    def schedule(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Set both for the step about to be taken."""
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = self.learning_rate(progress)
            if index == 0:
                group["weight_decay"] = self.weight_decay(progress)

    def limit(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip gradients; return the norm of all together before."""
        clip = clip_each if self.rules.clip == "each" else clip_all
        return clip(parameters, self.clip)


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


def clip_all(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients by one factor to a common norm of at most `limit`; 0 leaves them alone.

    Returns:
        The norm of all gradients together, before clipping.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if limit:
        nn.utils.clip_grads_with_norm_(with_gradient, limit, norm)
    return norm
