"""A failed step on disk, so that it can be taken again: RUN/failure."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitlab.atomic_io import environment, read_json_as, write_json
from vitlab.callbacks.step_trace import TensorStats
from vitlab.data.batch import Batch
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress

NAME = "failure"
RECORD, WEIGHTS, BATCH = "failure.json", "weights.safetensors", "batch.safetensors"


@dataclass(frozen=True)
class FailedStep:
    """Everything that a micro-batch of a step depends on, and what was seen of it.

    Attributes:
        sentence: what happened, for people.
        progress: that the step began with.
        epoch: index.
        micro_batch: index within the epoch.
        rank: that met it, of `world`.
        world: processes of the run.
        seed: of torch's random numbers in this micro-batch.
        precision: as in `trainer.precision`.
        device: cpu or cuda.
        threads: of torch; sums on CPU depend on it.
        scale: that the loss was multiplied with, in fp16.
        evaluating: names of the modules that were not in training mode.
        model: class and arguments, as in a checkpoint; None if the run was no `vitlab fit`.
        seen: in the order of the computation, see `StepTrace`.
        files: that the images are from, in their order; empty if not known.
    """

    sentence: str
    progress: Progress
    epoch: int
    micro_batch: int
    rank: int
    world: int
    seed: int
    precision: str
    device: str
    threads: int
    scale: float
    evaluating: tuple[str, ...]
    model: dict[str, Any] | None
    seen: tuple[TensorStats, ...]
    files: tuple[str, ...] = ()


def free_folder(run: Path) -> Path:
    """Return where the next failure of a run is kept: failure, or failure.2 if there is one."""
    count = 1
    while (path := run / (NAME if count == 1 else f"{NAME}.{count}")).exists():
        count += 1
    return path


def write(path: Path, failure: FailedStep, objective: Objective, batch: Batch) -> None:
    """Keep a failure, at once or not at all.

    Args:
        path: a folder that does not exist yet.
        failure: to be kept.
        objective: with the weights that the step began with.
        batch: the micro-batch of the objective.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        weights = {name: x.detach().cpu().clone() for name, x in objective.state_dict().items()}
        save_file(weights, aside / WEIGHTS)
        save_file(dict(_named_tensors(batch)), aside / BATCH)
        write_json(aside / RECORD, {**asdict(failure), "environment": environment()})
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(path: Path) -> FailedStep:
    """Return a failure that was kept.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        found = read_json_as(path / RECORD, FailedStep)
    except (OSError, InputError) as error:
        raise _unreadable(path, error) from error
    if found.threads < 1 or not 0 <= found.seed < 2**32:
        raise _unreadable(path, f"its threads are {found.threads}, its seed {found.seed}")
    return found


def read_batch(path: Path) -> Batch:
    """Return the micro-batch, bit for bit.

    Raises:
        InputError: the file is damaged or missing.
    """
    found = _load(path, BATCH)
    try:
        count = sum("views." in name for name in found)
        views = [found[f"views.{index}"] for index in range(count)]
    except KeyError as error:
        raise _unreadable(path, error) from error
    return Batch(views, found.get("labels"), masks=found.get("masks"))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights that the step began with.

    Raises:
        InputError: the file is damaged or missing.
    """
    return _load(path, WEIGHTS)


def _load(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path / name)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, f"{name}: {error}") from error


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(
        f"{path} holds no failure of a run that can be read ({why}); give the folder that the run "
        "named as it stopped, such as RUN/failure",
        field="folder",
    )


def _named_tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for index, stack in enumerate(batch.views):
        yield f"views.{index}", stack.detach().cpu().contiguous()
    for name, x in (("labels", batch.labels), ("masks", batch.masks)):
        if x is not None:
            yield name, x.detach().cpu().contiguous()
