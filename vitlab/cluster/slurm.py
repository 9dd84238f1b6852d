"""SLURM's commands sbatch and squeue, and the number of tasks that srun has started."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vitlab.cluster.job import RESERVED_NAMES
from vitlab.errors import InputError

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
TIMEOUT = 20  # seconds that a busy controller may take


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue of SLURM.

    Attributes:
        state: of squeue, in capitals.
        reason: why it waits; "None" for one that runs.
    """

    state: str
    reason: str

    @property
    def waits(self) -> bool:
        """Whether it has no machine yet, or not again."""
        return self.state in WAITING

    @property
    def runs(self) -> bool:
        """Whether it has processes, suspended ones included."""
        return not self.waits and self.state != "COMPLETING"


def sbatch(script: Path) -> str:
    """Submit a script.

    Returns:
        The job ID.

    Raises:
        InputError: sbatch refuses the script.
    """
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"sbatch refuses {script}: {done.stderr.strip()}", field=script.name)
    return done.stdout.strip().split(";")[0]  # with several clusters, a name follows


def queue() -> dict[str, QueuedJob]:
    """Return the user's jobs by ID, of arrays 12_0; empty on machines without SLURM.

    Raises:
        InputError: SLURM is installed and does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"squeue did not answer in {TIMEOUT} seconds") from error
    if done.returncode:
        raise InputError(f"squeue fails ({' '.join(done.stderr.splitlines()[-1:])})")
    rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {number.strip(): QueuedJob(state, reason) for number, state, reason in rows}


def count_tasks() -> int:
    """Return the tasks on each machine, and set SLURM_NTASKS_PER_NODE, which `srun -n N` does not.

    Lightning needs that variable. Outside of SLURM, and in an interactive shell, which Lightning
    does not take for a job, the number is 0.
    """
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in RESERVED_NAMES:
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
