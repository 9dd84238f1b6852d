"""The runs below a folder, from small files alone: no checkpoint is opened."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from vitlab.cluster.job import JOB_FOLDER, TICKET
from vitlab.cluster.notes import Scored, Ticket, read
from vitlab.cluster.slurm import QueuedJob
from vitlab.cluster.status import STATUS, RunStatus

# one of them makes a folder a run
MARKS = ("config.yaml", STATUS, f"{JOB_FOLDER}/{TICKET}")
BEST = ("miou/mean", "linear/top1", "knn/top1")  # the score that counts, where it was measured
FRESH = 600.0  # seconds after which a run on another machine that says nothing is lost


class RunState(StrEnum):
    """What has become of a run."""

    QUEUED = "queued"  # waits for its first start
    RUNNING = "running"
    REQUEUED = "requeued"  # waits to be started again
    STOPPED = "stopped"  # was asked to, and can go on
    FINISHED = "finished"
    FAILED = "failed"  # ended with an error
    LOST = "lost"  # was killed, or its machine failed


@dataclass(frozen=True)
class RunInfo:
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
    state: RunState
    reason: str = ""
    status: RunStatus | None = None
    measured: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    checkpoint: float | None = None
    job: str = ""


def find(root: Path, jobs: Mapping[str, QueuedJob]) -> list[RunInfo]:
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


def _run(folder: Path, jobs: Mapping[str, QueuedJob]) -> RunInfo:
    damaged: list[str] = []

    def known(name: str, kind: Any) -> Any:
        try:
            return read(folder / name, kind)
        except ValueError:
            damaged.append(name)
            return None

    status: RunStatus | None = known(STATUS, RunStatus)
    rows: list[Scored] = known("measurements.json", list[Scored]) or []
    ticket: Ticket | None = known(f"{JOB_FOLDER}/{TICKET}", Ticket)
    job = ticket.job if ticket else ""
    if status and status.job and (ticket is None or status.began > ticket.submitted):
        job = status.job  # of a later start than the ticket's
    trained = [row for row in rows if row.encoder == "trained" and row.scores]
    run = RunInfo(
        folder,
        *_state(folder, status, jobs.get(job), bool(job)),
        status=status,
        measured=trained[-1].scores if trained else {},
        best=_best(trained),
        checkpoint=_age(folder / "last.ckpt"),
        job=job,
    )
    return replace(run, reason=f"{', '.join(damaged)} cannot be read") if damaged else run


def _state(
    folder: Path, status: RunStatus | None, queued: QueuedJob | None, submitted: bool
) -> tuple[RunState, str]:
    """Return the state of a run and why it is in it."""
    if (folder / "results.json").exists():
        return RunState.FINISHED, ""
    if queued and queued.waits:
        return (RunState.REQUEUED if status else RunState.QUEUED), queued.reason
    if queued and queued.runs:
        starting = "" if status else "starting"
        return RunState.RUNNING, starting if queued.state == "RUNNING" else queued.state.lower()
    if status is None:
        if (folder / "last.ckpt").exists():
            return RunState.STOPPED, "it left no status.json"
        if not submitted:
            return RunState.LOST, ""
        outputs = sorted(
            (folder / JOB_FOLDER).glob("*.out"), key=lambda path: (len(path.name), path)
        )
        where = outputs[-1] if outputs else folder / JOB_FOLDER  # that of its last job
        return RunState.LOST, f"it ended before its first step; see {where}"
    if status.state != "running":
        clearing = "SLURM is clearing its job" if queued else ""  # it may start again after that
        return RunState(status.state), "; ".join(filter(None, (status.reason, clearing)))
    missing = _missing(status)
    return (RunState.LOST if missing else RunState.RUNNING), missing


def _missing(status: RunStatus) -> str:
    """Return why a run counts as lost, as far as one can see from here; "" for one that lives."""
    if status.host != platform.node():
        silent = time.time() - status.updated
        return f"it has said nothing for {silent / 60:.0f} minutes" if silent > FRESH else ""
    try:
        lives = psutil.Process(status.process).create_time() <= status.updated
    except (psutil.NoSuchProcess, ValueError):  # of a number below 0
        lives = False
    return "" if lives else "its process is gone"


def _best(trained: list[Scored]) -> dict[str, Any]:
    for tag in BEST:
        rows = [row for row in trained if tag in row.scores]
        if rows:
            row = max(rows, key=lambda row: row.scores[tag])
            return {"tag": tag, "value": row.scores[tag], "epoch": row.epoch}
    return {}


def _age(path: Path) -> float | None:
    return time.time() - path.stat().st_mtime if path.exists() else None
