"""The runs below a folder, from small files alone: no checkpoint is opened."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from vitlab.cluster.job import FOLDER, TICKET
from vitlab.cluster.slurm import Queued
from vitlab.cluster.status import STATUS, Status

# one of them makes a folder a run
MARKS = ("config.yaml", STATUS, f"{FOLDER}/{TICKET}")
BEST = ("miou/mean", "linear/top1", "knn/top1")  # the score that counts, where it was measured
FRESH = 600.0  # seconds after which a run on another machine that says nothing is lost


class State(StrEnum):
    """What has become of a run."""

    QUEUED = "queued"  # waits for its first start
    RUNNING = "running"
    REQUEUED = "requeued"  # waits to be started again
    STOPPED = "stopped"  # was asked to, and can go on
    FINISHED = "finished"
    FAILED = "failed"  # ended with an error
    LOST = "lost"  # was killed, or its machine failed


@dataclass(frozen=True)
class Run:
    """What is known of one run.

    Attributes:
        folder: of the run.
        state: see `State`.
        reason: why it stopped, failed, waits or is lost.
        status: what it last said of itself; None if it has not begun.
        measured: the last scores of the trained encoder, percent, by tag.
        best: the best value of the score that counts, with its tag and epoch.
        checkpoint: age of its last checkpoint in seconds; None for none.
        job: number in SLURM; empty outside.
    """

    folder: Path
    state: State
    reason: str = ""
    status: Status | None = None
    measured: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    checkpoint: float | None = None
    job: str = ""


def find(root: Path, jobs: Mapping[str, Queued]) -> list[Run]:
    """Return the runs in a folder and below it, sorted by name.

    Args:
        root: the folder, of one run or many.
        jobs: SLURM's queue.

    Raises:
        ValueError: there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give one with runs, by default runs")
    return [_run(folder, jobs) for folder in _folders(root)]


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs; what lies within one is not looked at."""
    for place, below, _ in os.walk(root):
        folder = Path(place)
        if any((folder / mark).is_file() for mark in MARKS):
            below.clear()
            yield folder
        else:
            below[:] = sorted(name for name in below if not name.startswith("."))


def _run(folder: Path, jobs: Mapping[str, Queued]) -> Run:
    ticket = _json(folder / FOLDER / TICKET) or {}
    said = _json(folder / STATUS)
    measurements = _json(folder / "measurements.json") or []
    damaged = [
        name
        for name, value in (("status.json", said), ("measurements.json", measurements))
        if isinstance(value, Damaged)
    ]
    known = isinstance(said, dict) and said.get("state") in set(State)
    status = Status.read(said) if known else None
    job = str(ticket.get("job", "")) if isinstance(ticket, dict) else ""
    if status and status.job and (not job or status.began > float(ticket.get("submitted", 0))):
        job = status.job  # of a later start than the ticket's
    trained = _trained(measurements)
    run = Run(
        folder,
        *_state(folder, status, jobs.get(job), bool(job)),
        status=status,
        measured=dict(trained[-1]["scores"]) if trained else {},
        best=_best(trained),
        checkpoint=_age(folder / "last.ckpt"),
        job=job,
    )
    return replace(run, reason=f"{', '.join(damaged)} cannot be read") if damaged else run


def _state(
    folder: Path, status: Status | None, queued: Queued | None, submitted: bool
) -> tuple[State, str]:
    """Return the state of a run and why it is in it."""
    if (folder / "results.json").exists():
        return State.FINISHED, ""
    if queued and queued.waits:
        return (State.REQUEUED if status else State.QUEUED), queued.reason
    if queued and queued.state == "RUNNING":
        return State.RUNNING, "" if status else "starting"
    if status is None:
        if (folder / "last.ckpt").exists():
            return State.STOPPED, "it left no status.json"
        return State.LOST, f"it ended before its first step; see {FOLDER}" if submitted else ""
    if status.state != "running":
        return State(status.state), status.reason
    return (State.RUNNING, "") if _lives(status) else (State.LOST, "its process is gone")


def _lives(status: Status) -> bool:
    """Whether the process of a run is still there, as far as one can see from here."""
    if status.host != platform.node():
        return time.time() - status.updated < FRESH
    try:
        return psutil.Process(status.process).create_time() <= status.updated
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Damaged:
    """A file that holds no JSON."""


def _json(path: Path) -> Any:
    """Return what a file holds, None if it is not there."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        return Damaged()


def _trained(measurements: Any) -> list[dict[str, Any]]:
    if not isinstance(measurements, list):
        return []
    return [row for row in measurements if row.get("encoder") == "trained" and row.get("scores")]


def _best(trained: list[dict[str, Any]]) -> dict[str, Any]:
    for tag in BEST:
        rows = [row for row in trained if tag in row["scores"]]
        if rows:
            row = max(rows, key=lambda row: row["scores"][tag])
            return {"tag": tag, "value": row["scores"][tag], "epoch": row["epoch"]}
    return {}


def _age(path: Path) -> float | None:
    return time.time() - path.stat().st_mtime if path.exists() else None
