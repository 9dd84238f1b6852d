"""Commands of SLURM, and what a process knows of its own job."""

import os
import shutil
import subprocess
import sys
from typing import NamedTuple

from vitlab.errors import InputError

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
TIMEOUT = 20  # seconds that a busy controller may take to list jobs
# Lightning takes jobs of these names for interactive shells and starts no ranks
SHELLS = ("bash", "interactive")


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
        ask("scontrol", "requeue", job_id())
    except InputError as error:
        return f"job {job_id()} could not be requeued: {error}"
    return f"job {job_id()} is requeued"


def count_tasks() -> int:
    """Return the tasks on each machine, and set SLURM_NTASKS_PER_NODE, which `srun -n N` does not.

    Lightning needs that variable. Outside of SLURM, and in an interactive shell, which Lightning
    does not take for a job, the number is 0.
    """
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in SHELLS:
        return 0
    each = int(os.environ["SLURM_NTASKS"]) // int(os.environ.get("SLURM_NNODES", "1"))
    return int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each)))


def check_tasks(devices: int, num_nodes: int) -> None:
    """Refuse a run whose devices are not as many as the tasks of SLURM.

    Raises:
        InputError: the numbers differ.
        SystemExit: the same on ranks other than 0, whose message is enough.
    """
    tasks = count_tasks()
    if not tasks or (devices, num_nodes) == (tasks, int(os.environ["SLURM_NTASKS"]) // tasks):
        return
    if os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(2)
    raise InputError(
        f"SLURM starts {os.environ['SLURM_NTASKS']} processes, {tasks} on each machine "
        f"(--ntasks-per-node), and trainer.devices is {devices}, trainer.num_nodes {num_nodes}; "
        "make them equal, or use vitlab submit",
        field="trainer.devices",
    )
