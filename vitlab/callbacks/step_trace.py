"""Trace of a step: every tensor in the order of the computation, and the first not finite one."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vitlab.data.batch import Batch
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress

Kind = Literal["image", "weight", "output", "loss", "gradient"]


@dataclass(frozen=True)
class TensorStats:
    """Range of a tensor, and how many of its numbers are not finite.

    Attributes:
        kind: an image or weight that went in, an output of a module, the loss, or the gradient of
            such an output or of a weight.
        name: of the module or weight, as in the objective; of views, their place in the batch.
        shape: of the tensor.
        wrong: how many of its numbers are NaN or infinite.
        low: the lowest of its finite numbers; 0 of none.
        high: the highest of them.
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    wrong: int
    low: float
    high: float

    @property
    def largest(self) -> float:
        """The largest finite number, by its absolute value."""
        return max(abs(self.low), abs(self.high))

    def __str__(self) -> str:
        """Name it, as part of a sentence."""
        kinds = {"output": f"the output of {self.name}", "loss": "the loss itself"}
        return kinds.get(self.kind, f"the {self.kind} {self.name}").replace(
            "the gradient ", "the gradient of "
        )


@dataclass(frozen=True)
class StepTrace:
    """What was seen of a step, in the order of its computation.

    Attributes:
        seen: all views, weights that are not finite, all outputs, the loss, all gradients of
            outputs and those of weights that are not finite.
        loss: value.
    """

    seen: tuple[TensorStats, ...]
    loss: float

    @property
    def first(self) -> TensorStats | None:
        """The first tensor that is not finite throughout; None where all are."""
        return next((one for one in self.seen if one.wrong), None)

    @property
    def largest_before(self) -> TensorStats | None:
        """The largest gradient before one that is not finite, the largest output before others."""
        first = self.first
        before = self.seen[: self.seen.index(first)] if first else self.seen
        kind = "gradient" if first and first.kind == "gradient" else "output"
        computed = [one for one in before if one.kind == kind]
        return max(computed, key=lambda one: one.largest, default=None)


def trace_step(
    objective: Objective,
    batch: Batch,
    progress: Progress,
    seed: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
    scale: float = 1.0,
) -> StepTrace:
    """Compute loss and gradients of a micro-batch and look at everything on the way.

    Weights and their `.grad` stay as they are, and no other rank is spoken to.

    Args:
        objective: with the weights that the step began with.
        batch: of the micro-batch.
        progress: that the step began with.
        seed: of torch's random numbers in this micro-batch.
        context: of the precision of the forward pass.
        scale: that the loss is multiplied with before backward, in fp16.
    """
    seen: list[TensorStats] = []
    for place, stack in enumerate(batch.views):
        seen.append(look("image", f"views.{place}", stack))
    tensors = [*objective.named_parameters(), *objective.named_buffers()]
    looked = (look("weight", name, x) for name, x in tensors if x.is_floating_point())
    seen += [one for one in looked if one.wrong]
    hooks = [
        module.register_forward_hook(partial(_note, seen, name or "objective"))
        for name, module in objective.named_modules()
        # a hook on the identity that attention weights pass would change how they are computed
        if not isinstance(module, nn.Identity)
    ]
    torch.manual_seed(seed)
    try:
        with torch.enable_grad(), context():
            value = objective.loss(batch, progress).value
    finally:
        for hook in hooks:
            hook.remove()
    seen.append(look("loss", "loss", value))
    if value.requires_grad:
        named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
        # not backward(): that would exchange gradients with other ranks
        found = torch.autograd.grad(value * scale, [p for _, p in named], allow_unused=True)
        gradients = {name: g for (name, _), g in zip(named, found, strict=True) if g is not None}
        looked = (look("gradient", name, gradient) for name, gradient in gradients.items())
        seen += [one for one in looked if one.wrong]
        norm = nn.utils.get_total_norm(gradients.values())
        seen.append(look("gradient", "all weights together, its norm", norm))
    return StepTrace(tuple(seen), float(value.detach()))


def look(kind: Kind, name: str, x: Tensor) -> TensorStats:
    """Return what is to be known of a tensor."""
    x = x.detach()
    finite = torch.isfinite(x)
    wrong = int(x.numel() - finite.sum())
    kept = x[finite] if wrong else x
    low, high = (float(v) for v in kept.aminmax()) if kept.numel() else (0.0, 0.0)
    return TensorStats(kind, name, tuple(x.shape), wrong, low, high)


def _note(
    seen: list[TensorStats], name: str, module: nn.Module, given: object, output: object
) -> None:
    for x in _tensors(output):
        seen.append(look("output", name, x))
        if x.requires_grad:
            x.register_hook(lambda gradient: seen.append(look("gradient", name, gradient)))


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors of floats in what a module returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def same(a: TensorStats, b: TensorStats) -> bool:
    """Whether two runs of a step show the same, to the last bit of what is noted."""
    numbers = ((a.low, b.low), (a.high, b.high))
    return (a.kind, a.name, a.shape, a.wrong) == (b.kind, b.name, b.shape, b.wrong) and all(
        x == y or (math.isnan(x) and math.isnan(y)) for x, y in numbers
    )
