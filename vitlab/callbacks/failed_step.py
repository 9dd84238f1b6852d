"""A step that failed, kept so that it can be taken again: RUN/failure."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitlab.atomic_io import environment, write_json
from vitlab.callbacks.step_trace import TensorStats
from vitlab.data.batch import Batch
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
        seen: in the order of the computation, see `Trace`.
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
    files: tuple[str, ...] = field(default=())


def place(folder: Path) -> Path:
    """Return where the next failure of a run is kept: failure, or failure.2 if there is one."""
    count = 1
    while (path := folder / (NAME if count == 1 else f"{NAME}.{count}")).exists():
        count += 1
    return path


def write(path: Path, failure: FailedStep, objective: Objective, batch: Batch) -> None:
    """Keep a failure, at once or not at all.

    Args:
        path: a folder that does not exist yet.
        failure: to be kept.
        objective: with the weights that the step began with.
        batch: of the micro-batch, as the objective got it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        weights = {name: x.detach().cpu().clone() for name, x in objective.state_dict().items()}
        save_file(weights, aside / WEIGHTS)
        save_file(dict(_named(batch)), aside / BATCH)
        write_json(aside / RECORD, {**asdict(failure), "environment": environment()})
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(path: Path) -> FailedStep:
    """Return a failure that was kept.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    try:
        content = json.loads((path / RECORD).read_text())
        del content["environment"]
        content["progress"] = Progress(**content["progress"])
        for name in ("evaluating", "files"):
            content[name] = tuple(content[name])
        content["seen"] = tuple(
            TensorStats(**{**one, "shape": tuple(one["shape"])}) for one in content["seen"]
        )
        for one in fields(FailedStep):
            if one.type in (int, str) and type(content[one.name]) is not one.type:
                raise ValueError(f"its {one.name} is {content[one.name]!r}")
        if not all(type(count) is int for count in vars(content["progress"]).values()):
            raise ValueError(f"its progress is {content['progress']}")
        if not isinstance(content["model"], dict | None):
            raise ValueError("its settings are none of a model")
        if content["threads"] < 1 or not 0 <= content["seed"] < 2**32:
            raise ValueError(f"its threads are {content['threads']}, its seed {content['seed']}")
        return FailedStep(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def read_batch(path: Path) -> Batch:
    """Return the micro-batch, bit for bit.

    Raises:
        ValueError: the file is damaged or missing.
    """
    found = _load(path, BATCH)
    try:
        names = [f"views.{index}" for index in range(sum("views." in name for name in found))]
        views = [found[name] for name in names]
    except KeyError as error:
        raise _unreadable(path, error) from error
    return Batch(views, found.get("labels"), masks=found.get("masks"))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights that the step began with.

    Raises:
        ValueError: the file is damaged or missing.
    """
    return _load(path, WEIGHTS)


def _load(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path / name)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, f"{name}: {error}") from error


def _unreadable(path: Path, why: object) -> ValueError:
    return ValueError(
        f"{path} holds no failure of a run that can be read ({why}); give the folder that the run "
        "named as it stopped, such as RUN/failure"
    )


def _named(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for index, stack in enumerate(batch.views):
        yield f"views.{index}", stack.detach().cpu().contiguous()
    for name, x in (("labels", batch.labels), ("masks", batch.masks)):
        if x is not None:
            yield name, x.detach().cpu().contiguous()
