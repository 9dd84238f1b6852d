"""`vitlab replay`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.cli import instantiate_module
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from torch import Tensor

from vitlab.callbacks.failed_step import RECORD, FailedStep, read, read_batch, read_weights
from vitlab.callbacks.step_trace import StepTrace, TensorStats, same, trace_step
from vitlab.commands.device import choose_device
from vitlab.config_safety import check_config, restrict_imports
from vitlab.data.batch import Batch
from vitlab.objectives import Objective
from vitlab.training.module import Pretraining

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = ("32-true", "64-true", *AUTOCAST)
REPRODUCED, DIFFERENT = 0, 1
NEAR = 4  # rows shown on either side of the first that is not finite


def run(words: Sequence[str]) -> None:
    """Take a failed step again and show it."""
    given = _parser().parse_args(words)
    failure = read(given.folder)
    precision = given.precision or failure.precision
    if precision not in PRECISIONS:
        raise ValueError(
            f"the run's precision {precision} cannot be replayed; choose --precision "
            f"{', '.join(PRECISIONS)}"
        )
    choose_device(given.device)
    print(f"{failure.sentence}\n", file=sys.stderr)
    torch.set_num_threads(failure.threads)  # sums on CPU depend on it
    try:
        with Bar(transient=True, console=Console(stderr=True)) as bar:
            bar.add_task("taking the step again", total=None)
            found = replay(given.folder, failure, precision, given.device, given.anomaly)
    except RuntimeError as error:
        if not given.anomaly or "returned nan values" not in str(error):
            raise
        print(f"torch, looking for anomalies: {error}; the call is above")
        return
    alike = precision == failure.precision and given.device == failure.device
    Console().print(table(found, failure.seen if alike else (), given.all))
    said, code = verdict(found, failure, precision, given.device)
    print(said)
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
        ValueError: the run kept no settings, they name a class from elsewhere or cannot be built,
            or they describe another model than the weights.
    """
    if failure.model is None:
        raise ValueError(
            f"{folder} holds no settings of the model, as it is not from `vitlab fit`; build it "
            "yourself and call vitlab.callbacks.step_trace.trace_step with the batch and weights in the folder"
        )
    check_config(failure.model, folder / RECORD)  # the settings may come from elsewhere
    restrict_imports()
    weights: dict[str, Tensor] = read_weights(folder)
    try:
        module: Pretraining = instantiate_module(Pretraining, failure.model)
    except argparse.ArgumentError as error:
        raise ValueError(f"{folder / RECORD} has settings of no model: {error}") from error
    except (ValueError, OSError) as error:  # of a frozen backbone, which is not kept twice
        frozen = (
            ". A run with prompts keeps no copy of its frozen backbone: start this in the folder "
            "that the run was started in, with the backbone's file where it was"
        )
        raise ValueError(f"{error}{frozen if 'backbone' in str(failure.model) else ''}") from error
    try:
        module.objective.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder} holds weights of another model: {error}") from error
    for name, part in module.objective.named_modules():
        part.training = name not in failure.evaluating
    return module.objective


def context_of(precision: str, device: str) -> Callable[[], AbstractContextManager]:
    """Return the context of the forward pass, as Lightning's precisions have it."""
    if precision in AUTOCAST:
        return partial(torch.autocast, device, dtype=AUTOCAST[precision])
    return nullcontext


def verdict(found: StepTrace, failure: FailedStep, precision: str, device: str) -> tuple[str, int]:
    """Return whether the failure was met again, in words and as exit code."""
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
    if len(found.seen) == len(failure.seen) and all(map(same, found.seen, failure.seen)):
        return (
            f"reproduced, bit for bit in all that is noted of {len(found.seen)} tensors: {first}",
            REPRODUCED,
        )
    return f"reproduced, though not bit for bit: {first} in {how} as in the run", REPRODUCED


def table(found: StepTrace, before: Sequence[TensorStats], every: bool) -> Table:
    """Return what was seen of the step, in the order of its computation.

    Args:
        found: the step taken again.
        before: what the run saw, to mark rows that differ; empty for no marks.
        every: whether all rows are shown, not only those around the first that is not finite.
    """
    shown = Table(title="the step, tensor by tensor", title_justify="left")
    for column in ("", "of", "shape", "not finite", "lowest", "highest"):
        side = "right" if column in ("not finite", "lowest", "highest") else "left"
        shown.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    first = found.seen.index(found.first) if found.first else len(found.seen) - 1
    start, end = (0, len(found.seen)) if every else (max(0, first - 2 * NEAR), first + NEAR)
    if start:
        shown.add_row("", f"... {start} before, finite (--all shows them)")
    for index, one in enumerate(found.seen[start:end], start):
        mark = ""
        if before and (index >= len(before) or not same(one, before[index])):
            mark = " *"
            shown.caption = "* other numbers than in the run"
        shown.add_row(
            one.kind + mark,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vitlab replay",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Take the step again at which a run met NaN or infinity, and show it tensor by "
        "tensor up\nto the first that is not finite. The folder holds all it takes: weights before "
        "the step,\nthe micro-batch, the seed, the settings. Nothing is trained and nothing "
        "written.\n\nExit code: 0 if the same number is met in the same place, 1 if not.",
        epilog="examples:\n"
        "  vitlab replay runs/dino/seed0/failure\n"
        "  vitlab replay runs/dino/seed0/failure --precision 32-true   # is bf16 the cause?\n"
        "  vitlab replay runs/dino/seed0/failure --anomaly             # which line of code?",
    )
    parser.add_argument("folder", type=Path, help="that the run named as it stopped: RUN/failure")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: that of the run")
    parser.add_argument(
        "--anomaly",
        action="store_true",
        help="have torch name the operation, with the line that called it",
    )
    parser.add_argument("--all", action="store_true", help="show every tensor")
    return parser
