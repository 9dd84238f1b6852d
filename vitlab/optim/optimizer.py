"""The optimizer: DINO's AdamW by default, with schedules for each step and clipped gradients."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from vitlab.errors import InputError
from vitlab.optim.lr_schedule import LRSchedule
from vitlab.optim.schedules import Cosine, Progress

TOKENS = {"cls_token", "reg_token", "pos_embed"}  # learned inputs of an encoder, no weights


@dataclass(frozen=True)
class ParamGroups:
    """Which parameters have weight decay; the defaults are DINO's.

    Args:
        decay_tokens: whether [CLS], registers and position embeddings have it; not in DeiT and
            timm.
        decay_1d: whether tensors with one dimension, biases and factors, have it, as in TCPA.
        independent_decay: whether the decay is what a step at the peak learning rate takes off the
            weights, as in big_vision; else it is that share over the learning rate, as in torch's
            AdamW.
    """

    decay_tokens: bool = True
    decay_1d: bool = False
    independent_decay: bool = False


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer; the defaults are DINO's (arXiv:2104.14294).

    Args:
        lr: peak learning rate per 256 images of the global batch, or as many as `lr_schedule` has.
        min_lr: learning rate at the end, whatever the batch size.
        warmup_epochs: epochs of linear increase from 0, or from what `lr_schedule` has.
        weight_decay: weight decay at the start; of tensors with more than one dimension, see
            param_groups.
        final_weight_decay: weight decay the cosine ends at.
        clip_grad_norm: largest L2 norm of gradients; 0 for no limit.
        clip_mode: "per_parameter" limits each tensor by itself, "global" all together.
        betas: decay rates of the averages of the gradient and of its square.
        name: adamw, or lamb (arXiv:1904.00962) by timm, which itself scales gradients down to a
            global norm of 1, as the fused LAMB of DeiT-III does.
        lr_schedule: warm-up, decay and cooldown.
        param_groups: which parameters have weight decay.
    """

    lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_epochs: int = 10
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    clip_grad_norm: float = 3.0
    clip_mode: Literal["per_parameter", "global"] = "per_parameter"
    betas: tuple[float, float] = (0.9, 0.999)
    name: Literal["adamw", "lamb"] = "adamw"
    lr_schedule: LRSchedule = LRSchedule()  # noqa: RUF009, frozen
    param_groups: ParamGroups = ParamGroups()

    def __post_init__(self) -> None:
        if self.name == "lamb" and self.param_groups.independent_decay:
            raise InputError(
                "model.optimizer.param_groups.independent_decay is set for lamb, where the decay "
                "takes part in the size of the step; use name adamw, or leave it out",
                field="model.optimizer.param_groups.independent_decay",
            )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the trainable parameters of a module."""
        decayed: list[nn.Parameter] = []
        undecayed: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                token = not self.param_groups.decay_tokens and name.rpartition(".")[2] in TOKENS
                vector = not self.param_groups.decay_1d and parameter.ndim <= 1
                (undecayed if vector or token else decayed).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        if self.name == "lamb":
            return create_optimizer_v2(groups, "lamb", betas=self.betas, eps=1e-8)
        # fused by group, not as a whole: an optimizer that is fused as a whole unscales fp16
        # gradients itself, after they have been clipped; this one leaves that to the scaler
        for group in groups:
            group["fused"] = True
        return torch.optim.AdamW(groups, betas=self.betas)

    def peak_lr(self, batch_size: int) -> float:
        """Return the highest learning rate for a global batch size."""
        return self.lr_schedule.peak(self.lr, batch_size)

    def lr_at(self, progress: Progress) -> float:
        """Return the learning rate of the step about to be taken."""
        peak = self.peak_lr(progress.batch_size)
        return self.lr_schedule(progress, peak, self.min_lr, self.warmup_epochs)

    def weight_decay_at(self, progress: Progress) -> float:
        """Return the weight decay of the step about to be taken."""
        decay = Cosine(self.weight_decay, self.final_weight_decay)(progress)
        peak = self.peak_lr(progress.batch_size)
        return decay / peak if self.param_groups.independent_decay else decay

    def apply_schedules(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Set learning rate and weight decay for the step about to be taken."""
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = self.lr_at(progress)
            if index == 0:
                group["weight_decay"] = self.weight_decay_at(progress)

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip gradients; return their global norm before."""
        clip = clip_per_parameter if self.clip_mode == "per_parameter" else clip_global
        return clip(parameters, self.clip_grad_norm)


def clip_per_parameter(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradient of every tensor to an L2 norm of at most `max_norm`, as DINO; 0 for none.

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
