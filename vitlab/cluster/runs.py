"""State of the runs below a folder, from small files; no checkpoint is opened."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from vitlab.atomic_io import read_json_as
from vitlab.cluster.job import JOB_FOLDER, TICKET, Ticket
from vitlab.cluster.slurm import WAITING, QueuedJob, job_id
from vitlab.errors import InputError

STATUS = "status.json"
MARKS = {"config.yaml", STATUS}  # a folder with one of them, or a job, is a run
LIMIT = 2**24  # bytes of a file of a run, which are a few thousand
BEST = ("miou/mean", "linear/top1", "knn/top1")  # the first that was measured is the score
SILENT = 600.0  # seconds without news after which a run on another machine is lost

# lost: killed, or its machine failed; requeued: waits for another start; stopped: can continue
RunState = Literal["queued", "running", "requeued", "stopped", "finished", "failed", "lost"]


@dataclass(frozen=True)
class RunStatus:
    """Content of RUN/status.json, which a run replaces as it goes on.

    Attributes:
        state: of the process that wrote it.
        reason: why it stopped or failed; empty otherwise.
        step: optimizer steps taken, of `steps`.
        epoch: epochs completed, of `epochs`.
        metrics: training metrics that were logged last.
        warning: last problem in training, with its step; empty for none.
        began: start of this process, seconds since 1970, as is `updated`.
        host: machine of rank 0, as `process` is its process ID.
        job: SLURM job ID, of arrays 12_0; empty outside of SLURM.
        restarts: how often SLURM has started the job again.
    """

    state: Literal["running", "finished", "stopped", "failed"]
    reason: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    warning: str = ""
    began: float = 0.0
    updated: float = 0.0
    host: str = field(default_factory=platform.node)
    process: int = field(default_factory=os.getpid)
    job: str = field(default_factory=job_id)
    restarts: int = field(default_factory=lambda: int(os.environ.get("SLURM_RESTART_COUNT", "0")))


@dataclass(frozen=True)
class RunInfo:
    """Summary of one run.

    Attributes:
        reason: why it stopped, failed, waits or is lost.
        status: its last status file; None before its first start.
        measured: last scores of the trained encoder, percent, by tag.
        best: best value of the score, with its tag and epoch; empty for none.
        checkpoint: age of its last checkpoint in seconds; None for none.
        job: job ID of SLURM; empty outside.
    """

    folder: Path
    state: RunState
    reason: str = ""
    status: RunStatus | None = None
    measured: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    checkpoint: float | None = None
    job: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """What is listed of a row of measurements.json."""

    encoder: str
    epoch: int
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The scores that have a value."""
        return {tag: value for tag, value in self.scores.items() if value is not None}


def find_runs(
    root: Path, jobs: Mapping[str, QueuedJob], unreadable: Callable[[str], None] = lambda _: None
) -> Iterator[RunInfo]:
    """Yield the runs in a folder and below it by name; those within a run are not searched.

    Args:
        root: folder of one run or many.
        jobs: SLURM's queue.
        unreadable: called with a sentence on each folder that cannot be read.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; give one with runs", field="root")

    def refused(error: OSError) -> None:
        unreadable(f"{error.filename} cannot be read: {error.strerror}")

    for place, below, files in os.walk(root, onerror=refused):
        folder = Path(place)
        job = JOB_FOLDER in below and (folder / JOB_FOLDER / TICKET)
        try:
            if MARKS.intersection(files) or (job and os.path.lexists(job)):
                below.clear()
                yield _read_run(folder, jobs)
        except OSError as error:
            refused(error)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _read_run(folder: Path, jobs: Mapping[str, QueuedJob]) -> RunInfo:
    damaged: list[str] = []

    def read(name: str, kind: Any) -> Any:
        try:
            return read_json_as(folder / name, kind, limit=LIMIT)
        except FileNotFoundError:
            return None
        except InputError:
            damaged.append(name)
            return None

    status: RunStatus | None = read(STATUS, RunStatus)
    rows: list[ScoreRow] = read("measurements.json", list[ScoreRow]) or []
    ticket: Ticket | None = read(f"{JOB_FOLDER}/{TICKET}", Ticket)
    job = ticket.job if ticket else ""
    if status and status.job and (ticket is None or status.began > ticket.submitted):
        job = status.job  # of a later start than the ticket's
    trained = [row for row in rows if row.encoder == "trained" and row.values]
    last = folder / "last.ckpt"
    run = RunInfo(
        folder,
        *_state(folder, status, jobs.get(job), bool(job)),
        status=status,
        measured=trained[-1].values if trained else {},
        best=_best(trained),
        checkpoint=time.time() - last.stat().st_mtime if last.exists() else None,
        job=job,
    )
    return replace(run, reason=f"{', '.join(damaged)} cannot be read") if damaged else run


def _state(
    folder: Path, status: RunStatus | None, queued: QueuedJob | None, submitted: bool
) -> tuple[RunState, str]:
    """Return the state of a run and its reason."""
    if (folder / "results.json").exists():
        return "finished", ""
    if queued and queued.state in WAITING:
        return ("requeued" if status else "queued"), queued.reason
    if queued and queued.state != "COMPLETING":  # it has processes, be they suspended
        starting = "" if status else "starting"
        return "running", starting if queued.state == "RUNNING" else queued.state.lower()
    if status is None:
        if (folder / "last.ckpt").exists():
            return "stopped", f"it left no {STATUS}"
        output = f"it ended before its first step; see {folder / JOB_FOLDER}"
        return "lost", output if submitted else ""
    if status.state != "running":
        clearing = "SLURM is clearing its job" if queued else ""  # it may start again after that
        return status.state, "; ".join(filter(None, (status.reason, clearing)))
    if status.host != platform.node():
        silent = time.time() - status.updated
        reason = f"it has said nothing for {silent / 60:.0f} minutes" if silent > SILENT else ""
    else:
        try:  # a younger process is another one
            alive = psutil.Process(status.process).create_time() <= status.updated
        except (psutil.Error, ValueError, OverflowError):  # of a number that no process has
            alive = False
        reason = "" if alive else "its process is gone"
    return ("lost" if reason else "running"), reason


def _best(trained: list[ScoreRow]) -> dict[str, Any]:
    for tag in BEST:
        if rows := [row for row in trained if tag in row.values]:
            row = max(rows, key=lambda row: row.values[tag])
            return {"tag": tag, "value": row.values[tag], "epoch": row.epoch}
    return {}
