"""State of the runs below a folder, from small files; no checkpoint is opened."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil

from vitlab.atomic_io import read_json_as
from vitlab.cluster.job import JOB_FOLDER, TICKET
from vitlab.cluster.slurm import QueuedJob
from vitlab.cluster.status import STATUS, RunStatus
from vitlab.cluster.submission import Ticket
from vitlab.errors import InputError

MARKS = ("config.yaml", STATUS, f"{JOB_FOLDER}/{TICKET}")  # a folder with one of them is a run
BEST = ("miou/mean", "linear/top1", "knn/top1")  # the first that was measured is the score
SILENT = 600.0  # seconds without news after which a run on another machine is lost

# lost: killed, or its machine failed; requeued: waits for another start; stopped: can continue
RunState = Literal["queued", "running", "requeued", "stopped", "finished", "failed", "lost"]


@dataclass(frozen=True)
class RunInfo:
    """Summary of one run.

    Attributes:
        folder: of the run.
        state: see `RunState`.
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
    """The columns of a row of measurements.json that are listed."""

    encoder: str
    epoch: int
    scores: dict[str, float] = field(default_factory=dict)

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}


def find_runs(root: Path, jobs: Mapping[str, QueuedJob]) -> list[RunInfo]:
    """Return the runs in a folder and below it, sorted by name.

    Args:
        root: folder of one run or many.
        jobs: SLURM's queue.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; give one with runs", field="root")
    return [_read_run(folder, jobs) for folder in _folders(root)]


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs; those within a run are not searched."""
    for place, below, _ in os.walk(root):
        folder = Path(place)
        if any((folder / mark).is_file() for mark in MARKS):
            below.clear()
            yield folder
        else:
            below[:] = sorted(name for name in below if not name.startswith("."))


def _read_run(folder: Path, jobs: Mapping[str, QueuedJob]) -> RunInfo:
    damaged: list[str] = []

    def read(name: str, kind: Any) -> Any:
        try:
            return read_json_as(folder / name, kind)
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
    trained = [row for row in rows if row.encoder == "trained" and row.scores]
    last = folder / "last.ckpt"
    run = RunInfo(
        folder,
        *_state(folder, status, jobs.get(job), bool(job)),
        status=status,
        measured=trained[-1].scores if trained else {},
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
    if queued and queued.waits:
        return ("requeued" if status else "queued"), queued.reason
    if queued and queued.runs:
        starting = "" if status else "starting"
        return "running", starting if queued.state == "RUNNING" else queued.state.lower()
    if status is None:
        if (folder / "last.ckpt").exists():
            return "stopped", "it left no status.json"
        if not submitted:
            return "lost", ""
        outputs = sorted((folder / JOB_FOLDER).glob("*.out"), key=lambda p: (len(p.name), p))
        output = outputs[-1] if outputs else folder / JOB_FOLDER  # of its last job
        return "lost", f"it ended before its first step; see {output}"
    if status.state != "running":
        clearing = "SLURM is clearing its job" if queued else ""  # it may start again after that
        return status.state, "; ".join(filter(None, (status.reason, clearing)))
    missing = _missing(status)
    return ("lost" if missing else "running"), missing


def _missing(status: RunStatus) -> str:
    """Return why a run counts as lost, as far as this machine can know; "" if it is alive."""
    if status.host != platform.node():
        silent = time.time() - status.updated
        return f"it has said nothing for {silent / 60:.0f} minutes" if silent > SILENT else ""
    try:
        alive = psutil.Process(status.process).create_time() <= status.updated
    except (psutil.NoSuchProcess, ValueError):  # of a number below 0
        alive = False
    return "" if alive else "its process is gone"


def _best(trained: list[ScoreRow]) -> dict[str, Any]:
    for tag in BEST:
        rows = [row for row in trained if tag in row.scores]
        if rows:
            row = max(rows, key=lambda row: row.scores[tag])
            return {"tag": tag, "value": row.scores[tag], "epoch": row.epoch}
    return {}
