"""Commands of SLURM, and what a process knows of its own job."""

import os
import shutil
import subprocess
from typing import NamedTuple

from vitlab.errors import InputError

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
TIMEOUT = 20  # seconds that a busy controller may take


class QueuedJob(NamedTuple):
    """State of a job in capitals, as squeue prints it, and why it waits ("None" if it runs)."""

    state: str
    reason: str


def ask(*words: str, timeout: float | None = None) -> str:
    """Run a command of SLURM and return what it prints.

    Raises:
        InputError: it is not there, does not answer, or refuses.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise InputError(f"{words[0]} fails: {reason}", field=words[0]) from error
    return done.stdout


def queue() -> dict[str, QueuedJob]:
    """Return the user's jobs by ID, of arrays 12_0; empty on machines without SLURM.

    Raises:
        InputError: SLURM is installed and does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ("squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r")
    rows = [line.split("|", 2) for line in ask(*command, timeout=TIMEOUT).splitlines()]
    return {row[0].strip(): QueuedJob(*row[1:]) for row in rows if len(row) == 3}


def job_id() -> str:
    """Return the job of this process as squeue names it, of arrays 12_0; "" outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID", "")


def requeue() -> str:
    """Ask SLURM to start this job again; return the outcome as text for the user."""
    try:
        ask("scontrol", "requeue", job_id(), timeout=TIMEOUT)
    except InputError as error:
        return f"job {job_id()} could not be requeued: {error}"
    return f"job {job_id()} is requeued"
