"""A step that met NaN or infinity: a look at every tensor of it, and its record in RUN/failure."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitlab.atomic_io import environment, read_json_as, write_json
from vitlab.data.batch import Batch
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress

RECORD, WEIGHTS, BATCH = "failure.json", "weights.safetensors", "batch.safetensors"


@dataclass(frozen=True)
class TensorStats:
    """Range of a tensor, and how many of its numbers are not finite.

    Attributes:
        kind: an image or weight that went in, an output of a module, the loss, or the gradient of
            such an output or of a weight.
        name: of the module or weight, as in the objective; of views, their place in the batch.
        wrong: how many of its numbers are NaN or infinite.
        low: the lowest of its finite numbers; 0 of none.
        high: the highest of them.
    """

    kind: Literal["image", "weight", "output", "loss", "gradient"]
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
        names = {kind: f"the {kind} of {self.name}" for kind in ("output", "gradient")}
        return {"loss": "the loss itself", **names}.get(self.kind, f"the {self.kind} {self.name}")


Trace = Sequence[TensorStats]  # all that is seen of a step, in the order of its computation


@dataclass(frozen=True)
class FailedStep:
    """Everything that a micro-batch of a step depends on, and what was seen of it.

    Attributes:
        micro_batch: index within the epoch.
        rank: that met it, of `world` processes.
        seed: of torch's random numbers in this micro-batch.
        threads: of torch; sums on CPU depend on it.
        scale: that the loss was multiplied with, in fp16.
        evaluating: names of the modules that were not in training mode.
        model: class and arguments, as in a checkpoint; None if the run was no `vitlab fit`.
        seen: see `trace_step`.
        files: that the images are from, in their order; empty if not known.
    """

    sentence: str
    progress: Progress
    epoch: int
    micro_batch: int
    rank: int
    world: int
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: str
    device: str
    threads: Annotated[int, Field(ge=1)]
    scale: float
    evaluating: tuple[str, ...]
    model: dict[str, Any] | None
    seen: tuple[TensorStats, ...]
    files: tuple[str, ...] = ()


def trace_step(
    objective: Objective,
    batch: Batch,
    progress: Progress,
    seed: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
    scale: float = 1.0,
) -> tuple[TensorStats, ...]:
    """Compute loss and gradients of a micro-batch and look at everything on the way.

    Weights and their `.grad` stay as they are, and no other rank is spoken to.

    Args:
        objective: with the weights that the step began with.
        batch: the micro-batch.
        progress: that the step began with.
        seed: of torch's random numbers.
        context: of the precision of the forward pass.
        scale: that the loss is multiplied with before backward, in fp16.

    Returns:
        All views, weights that are not finite, all outputs, the loss, all gradients of outputs,
        those of weights that are not finite, and their norm.
    """
    seen = [look("image", f"views.{place}", stack) for place, stack in enumerate(batch.views)]
    tensors = [*objective.named_parameters(), *objective.named_buffers()]
    weights = [look("weight", name, x) for name, x in tensors if x.is_floating_point()]
    seen += [one for one in weights if one.wrong]

    def note(name: str, module: nn.Module, given: object, output: object) -> None:
        for x in _floats(output):
            seen.append(look("output", name, x))
            if x.requires_grad:
                x.register_hook(lambda gradient: seen.append(look("gradient", name, gradient)))

    hooks = [
        module.register_forward_hook(partial(note, name or "objective"))
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
        named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        # not backward(): that would exchange gradients with other ranks
        found = torch.autograd.grad(value * scale, list(named.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(named, found, strict=True) if g is not None}
        looked = [look("gradient", name, gradient) for name, gradient in gradients.items()]
        seen += [one for one in looked if one.wrong]
        norm = nn.utils.get_total_norm(gradients.values())
        seen.append(look("gradient", "all weights together, its norm", norm))
    return tuple(seen)


def look(kind: Any, name: str, x: Tensor) -> TensorStats:
    """Return what is to be known of a tensor."""
    x = x.detach()
    finite = torch.isfinite(x)
    wrong = int(x.numel() - finite.sum())
    kept = x[finite] if wrong else x
    low, high = (float(v) for v in kept.aminmax()) if kept.numel() else (0.0, 0.0)
    return TensorStats(kind, name, tuple(x.shape), wrong, low, high)


def _floats(value: Any) -> list[Tensor]:
    """Return the tensors of floats in what a module returns."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, dict):
        value = list(value.values())
    inner = value if isinstance(value, list | tuple) else ()
    return [x for one in inner for x in _floats(one)]


def first_wrong(trace: Trace) -> TensorStats | None:
    """Return the first tensor that is not finite throughout; None where all are."""
    return next((one for one in trace if one.wrong), None)


def largest_before(trace: Trace) -> TensorStats | None:
    """Return the largest gradient before the first that is not finite, else the largest output."""
    first = first_wrong(trace)
    kind = "gradient" if first and first.kind == "gradient" else "output"
    before = [one for one in trace[: trace.index(first) if first else None] if one.kind == kind]
    return max(before, key=lambda one: one.largest, default=None)


def write(run: Path, failure: FailedStep, objective: Objective, batch: Batch) -> Path:
    """Keep a failure of a run, at once or not at all, in its folder failure, or failure.2, ..."""
    count, path = 1, run / "failure"
    while path.exists():
        count += 1
        path = run / f"failure.{count}"
    inputs = {f"views.{place}": stack for place, stack in enumerate(batch.views)}
    others = {"labels": batch.labels, "masks": batch.masks}
    inputs |= {name: x for name, x in others.items() if x is not None}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        for name, tensors in ((WEIGHTS, objective.state_dict()), (BATCH, inputs)):
            # copies, as tensors that share memory are refused
            copies = {key: x.detach().cpu().clone().contiguous() for key, x in tensors.items()}
            save_file(copies, aside / name)
        write_json(aside / RECORD, {**asdict(failure), "environment": environment()})
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def read(path: Path, device: str = "cpu") -> tuple[FailedStep, dict[str, Tensor], Batch]:
    """Return a failure that was kept, the weights that the step began with, and the micro-batch.

    Raises:
        InputError: there is none, or it is damaged.
    """
    name, tensors = RECORD, {}
    try:
        failure = read_json_as(path / RECORD, FailedStep, finite=False)
        for name in (WEIGHTS, BATCH):
            tensors[name] = load_file(path / name, device)
        inputs = tensors[BATCH]
        views = [inputs[f"views.{place}"] for place in range(sum("views." in k for k in inputs))]
    except (OSError, InputError, SafetensorError, KeyError) as error:
        raise InputError(
            f"{path} holds no failure of a run that can be read ({name}: {error}); give the folder "
            "that the run named as it stopped, such as RUN/failure",
            field="folder",
        ) from error
    batch = Batch(views, inputs.get("labels"), masks=inputs.get("masks"))
    return failure, tensors[WEIGHTS], batch
