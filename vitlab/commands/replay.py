"""`vitlab replay`: takes a step again at which a run met NaN or infinity."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlab.callbacks.failed_step import RECORD, FailedStep, read, read_batch, read_weights
from vitlab.callbacks.step_trace import StepTrace, TensorStats, same, trace_step
from vitlab.commands.device import choose_device
from vitlab.commands.parser import POSITIONAL, parse
from vitlab.data.batch import Batch
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.run.module import build_module

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = ("32-true", "64-true", *AUTOCAST)
REPRODUCED, DIFFERENT = 0, 1
NEAR = 4  # rows shown on either side of the first that is not finite
EXAMPLES = """\
examples:
  vitlab replay runs/dino/seed0/failure
  vitlab replay runs/dino/seed0/failure --precision 32-true   # is bf16 the cause?
  vitlab replay runs/dino/seed0/failure --anomaly             # which line of code?
"""


@dataclass(frozen=True)
class ReplayArguments:
    """Take the step again at which a run met NaN or infinity, and show it tensor by tensor.

    The folder holds all it takes: weights before the step, the micro-batch, the seed, the settings.
    Nothing is trained and nothing written. Exit code: 0 if the same number is met in the same
    place, 1 if not.

    Args:
        folder: that the run named as it stopped: RUN/failure.
        device: of the replay.
        precision: 32-true, 64-true, bf16-mixed or 16-mixed; by default that of the run.
        anomaly: have torch name the operation, with the line that called it.
        all: show every tensor.
    """

    folder: Path = field(metadata=POSITIONAL)
    device: Literal["cpu", "cuda"] = "cpu"
    precision: str = ""
    anomaly: bool = False
    all: bool = False


def run(words: Sequence[str]) -> None:
    """Take a failed step again and show it."""
    given = parse(ReplayArguments, words, "vitlab replay", EXAMPLES)
    failure = read(given.folder)
    precision = given.precision or failure.precision
    if precision not in PRECISIONS:
        raise InputError(
            f"the precision {precision} cannot be replayed; choose --precision "
            f"{', '.join(PRECISIONS)}",
            field="--precision",
        )
    choose_device(given.device)
    print(f"{failure.sentence}\n", file=sys.stderr)
    torch.set_num_threads(failure.threads)  # sums on CPU depend on it
    try:
        with Console(stderr=True).status("taking the step again"):
            found = replay(given.folder, failure, precision, given.device, given.anomaly)
    except RuntimeError as error:
        if not given.anomaly or "returned nan values" not in str(error):
            raise
        print(f"torch, looking for anomalies: {error}; the call is above")
        return
    alike = precision == failure.precision and given.device == failure.device
    Console().print(table(found, failure.seen if alike else (), given.all))
    text, code = verdict(found, failure, precision, given.device)
    print(text)
    if code:
        sys.exit(code)


def replay(
    folder: Path, failure: FailedStep, precision: str, device: str, anomaly: bool = False
) -> StepTrace:
    """Take the step of a failure again.

    Args:
        folder: of the failure.
        failure: its record.
        precision: one of `PRECISIONS`.
        device: cpu or cuda.
        anomaly: whether torch is to name the operation whose backward gives NaN.
    """
    objective = rebuild(folder, failure).to(device)
    batch = read_batch(folder)
    views = [stack.to(device) for stack in batch.views]
    if precision == "64-true":
        objective, views = objective.double(), [stack.double() for stack in views]
    labels, masks = (None if x is None else x.to(device) for x in (batch.labels, batch.masks))
    with torch.autograd.set_detect_anomaly(anomaly):
        return trace_step(
            objective,
            Batch(views, labels, masks=masks),
            failure.progress,
            failure.seed,
            context_of(precision, device),
            failure.scale if precision == "16-mixed" else 1.0,
        )


def rebuild(folder: Path, failure: FailedStep) -> Objective:
    """Return the objective with the weights and modes that the step began with.

    Raises:
        InputError: the run kept no settings, they name a class from elsewhere or cannot be built,
            or they describe another model than the weights.
    """
    if failure.model is None:
        raise InputError(
            f"{folder} holds no settings of the model, as it is not from `vitlab fit`; build it "
            "yourself and call vitlab.callbacks.step_trace.trace_step with the batch and weights "
            "in the folder",
            field="folder",
        )
    weights: dict[str, Tensor] = read_weights(folder)
    try:
        objective = build_module(failure.model, folder / RECORD).objective
    except (ValueError, OSError) as error:  # of a frozen backbone, which is not kept twice
        frozen = (
            ". A run with prompts keeps no copy of its frozen backbone: start this in the folder "
            "that the run was started in, with the backbone's file where it was"
        )
        text = f"{error}{frozen if 'backbone' in str(failure.model) else ''}"
        raise InputError(text, field=RECORD) from error
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder} holds weights of another model: {error}", field=RECORD
        ) from error
    for name, part in objective.named_modules():
        part.training = name not in failure.evaluating
    return objective


def context_of(precision: str, device: str) -> Callable[[], AbstractContextManager]:
    """Return the context of the forward pass, as in Lightning's precisions."""
    if precision in AUTOCAST:
        return partial(torch.autocast, device, dtype=AUTOCAST[precision])
    return nullcontext


def verdict(found: StepTrace, failure: FailedStep, precision: str, device: str) -> tuple[str, int]:
    """Return whether the failure was met again, as text and exit code."""
    before = next((one for one in failure.seen if one.wrong), None)
    first = found.first
    as_it_was = precision == failure.precision and device == failure.device
    how = f"{precision} on {device}"
    if first is None:
        why = "" if as_it_was else f", as the run was not ({failure.precision}, {failure.device})"
        return f"not reproduced: in {how} every number of the step is finite{why}", DIFFERENT
    if before is None:
        return f"not reproduced: the run itself saw none again, but here is {first}", DIFFERENT
    if (first.kind, first.name) != (before.kind, before.name):
        return f"not reproduced: first {before} in the run, {first} in {how}", DIFFERENT
    count = len(found.seen)
    if count == len(failure.seen) and all(map(same, found.seen, failure.seen)):
        text = f"reproduced, bit for bit in all that is noted of {count} tensors: {first}"
        return text, REPRODUCED
    return f"reproduced, though not bit for bit: {first} in {how} as in the run", REPRODUCED


def table(found: StepTrace, before: Sequence[TensorStats], every: bool) -> Table:
    """Return the tensors of the step, in the order of its computation.

    Args:
        found: the step taken again.
        before: the run's own, to mark rows that differ; empty for no marks.
        every: whether all rows are shown, not only those around the first that is not finite.
    """
    shown = Table(title="the step, tensor by tensor", title_justify="left")
    for column in ("", "of", "shape"):
        shown.add_column(column, overflow="fold")
    for column in ("not finite", "lowest", "highest"):
        shown.add_column(column, overflow="fold", justify="right")
    first = found.seen.index(found.first) if found.first else len(found.seen) - 1
    start, end = (0, len(found.seen)) if every else (max(0, first - 2 * NEAR), first + NEAR)
    if start:
        shown.add_row("", f"... {start} before, finite (--all shows them)")
    for index, one in enumerate(found.seen[start:end], start):
        changed = bool(before) and (index >= len(before) or not same(one, before[index]))
        if changed:
            shown.caption = "* other numbers than in the run"
        shown.add_row(
            one.kind + " *" * changed,
            one.name,
            " x ".join(map(str, one.shape)),
            f"[red]{one.wrong:,}[/]" if one.wrong else "0",
            f"{one.low:.4g}",
            f"{one.high:.4g}",
            style="bold" if index == first and found.first else None,
        )
    if end < len(found.seen):
        shown.add_row("", f"... {len(found.seen) - end} behind")
    return shown
