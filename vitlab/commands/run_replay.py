"""The work of `vitlab replay`: takes a step again at which a run met NaN or infinity."""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vitlab.callbacks.failed_step import (
    RECORD,
    FailedStep,
    Trace,
    first_wrong,
    read,
    trace_step,
)
from vitlab.commands.device import choose_device
from vitlab.commands.replay import ReplayArguments
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.run.module import build_module

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = ("32-true", "64-true", *AUTOCAST)
NEAR = 4  # rows shown on either side of the first that is not finite


def replay(given: ReplayArguments) -> None:
    """Take a failed step again and show it."""
    choose_device(given.device)
    failure, weights, batch = read(given.folder, given.device)
    precision = given.precision or failure.precision
    if precision not in PRECISIONS:
        raise InputError(
            f"the precision {precision} cannot be replayed; choose --precision "
            f"{', '.join(PRECISIONS)}",
            field="--precision",
        )
    print(f"{failure.sentence}\n", file=sys.stderr)
    objective = rebuild(given.folder, failure, weights).to(given.device)
    if precision == "64-true":
        objective, batch.views = objective.double(), [stack.double() for stack in batch.views]
    autocast, scale = AUTOCAST.get(precision), failure.scale if precision == "16-mixed" else 1.0
    context = partial(torch.autocast, given.device, autocast, enabled=autocast is not None)
    torch.set_num_threads(failure.threads)  # sums on CPU depend on it
    try:
        with torch.autograd.set_detect_anomaly(given.anomaly):
            seen = trace_step(objective, batch, failure.progress, failure.seed, context, scale)
    except RuntimeError as error:
        if not given.anomaly or "returned nan values" not in str(error):
            raise
        print(f"torch, looking for anomalies: {error}; the call is above")
        return
    show(seen, given.all)
    text, reproduced = verdict(seen, failure, f"{precision} on {given.device}")
    print(text)
    if not reproduced:
        sys.exit(1)


def rebuild(folder: Path, failure: FailedStep, weights: dict[str, Tensor]) -> Objective:
    """Return the objective with the weights and modes that the step began with.

    Raises:
        InputError: the run kept no settings, they name a class from elsewhere or cannot be built,
            or they describe another model than the weights.
    """
    if failure.model is None:
        raise InputError(
            f"{folder} holds no settings of the model, as it is not from `vitlab fit`; build it "
            "yourself and call vitlab.callbacks.failed_step.trace_step with the batch and weights "
            "in the folder",
            field="folder",
        )
    try:
        objective = build_module(failure.model, folder / RECORD).objective
        objective.load_state_dict(weights)
    except (ValueError, OSError, RuntimeError) as error:
        frozen = (
            ". A run with prompts keeps no copy of its frozen backbone: start this in the folder "
            "that the run was started in, with the backbone's file where it was"
        )
        hint = frozen if "backbone" in str(failure.model) else ""
        raise InputError(
            f"the model of {folder} cannot be built: {error}{hint}", field=RECORD
        ) from error
    for name, part in objective.named_modules():
        part.training = name not in failure.evaluating
    return objective


def verdict(seen: Trace, failure: FailedStep, how: str) -> tuple[str, bool]:
    """Return in a sentence, and as a yes or no, whether the failure was met again."""
    before, now = first_wrong(failure.seen), first_wrong(seen)
    if before is None or now is None or (before.kind, before.name) != (now.kind, now.name):
        was, here = before or "nothing", now or "nothing"
        return f"not reproduced: first not finite is {was} in the run, {here} in {how}", False
    if seen == failure.seen:
        return f"reproduced, bit for bit in all that is noted of {len(seen)} tensors: {now}", True
    return f"reproduced, though not bit for bit: {now} in {how} as in the run", True


def show(seen: Trace, every: bool) -> None:
    """Print the tensors of the step, or only those around the first that is not finite."""
    first = first_wrong(seen)
    place = seen.index(first) if first else len(seen)
    rows = seen if every else seen[max(0, place - 2 * NEAR) : place + NEAR]
    print(f"{len(rows)} of {len(seen)} tensors, as they were computed (--all for all)")
    print(f"{'kind':8} {'not finite':>11} {'lowest':>10} {'highest':>10}  name and shape")
    for one in rows:
        numbers = f"{one.wrong:11,} {one.low:10.4g} {one.high:10.4g}"
        print(f"{one.kind:8} {numbers}  {one.name} {list(one.shape)}")
