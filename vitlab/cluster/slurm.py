"""The two commands of SLURM that vitlab asks: sbatch and squeue."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vitlab.cluster.job import NOT_NAMES

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
FIELDS = "%i|%T|%r"  # of squeue: number, state, why it waits
PATIENCE = 20  # seconds that a busy controller may take


@dataclass(frozen=True)
class QueuedJob:
    """A job that SLURM has not finished with.

    Attributes:
        state: as SLURM says it, in capitals.
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
        """Whether it has processes, be they suspended."""
        return not self.waits and self.state != "COMPLETING"


def check_present() -> None:
    """Refuse a machine without SLURM.

    Raises:
        ValueError: what to do.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no sbatch on this machine, so nothing can be submitted; go to a login node "
            "of the cluster, or see the script with --dry-run"
        )


def submit(script: Path) -> str:
    """Hand a script to sbatch.

    Returns:
        The number of the job.

    Raises:
        ValueError: it is refused; the message says why.
    """
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"sbatch refuses {script}: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]  # the number, and with several clusters its name


def queue() -> dict[str, QueuedJob]:
    """Return the user's jobs by number, of arrays 12_0; empty where there is no SLURM.

    Raises:
        ValueError: SLURM is there, and does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--me", f"--format={FIELDS}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"squeue did not answer in {PATIENCE} seconds") from error
    if done.returncode:
        raise ValueError(f"squeue fails ({' '.join(done.stderr.splitlines()[-1:])})")
    rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {number.strip(): QueuedJob(state, reason) for number, state, reason in rows}


def count_tasks() -> int:
    """Tell Lightning how many processes srun has started on each machine, which `-n N` does not.

    Returns:
        Their number; 0 outside of SLURM, or in a shell of it that Lightning takes for none.
    """
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in NOT_NAMES:
        return 0
    each = int(os.environ["SLURM_NTASKS"]) // int(os.environ.get("SLURM_NNODES", "1"))
    return int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each)))


def check_tasks(devices: int, nodes: int) -> None:
    """Refuse a run that has other processes than devices.

    Raises:
        ValueError: how many of each.
        SystemExit: the same, on other ranks than the first, which speaks for all.
    """
    tasks = count_tasks()
    if not tasks or (devices, nodes) == (tasks, int(os.environ["SLURM_NTASKS"]) // tasks):
        return
    if os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(2)
    raise ValueError(
        f"SLURM starts {os.environ['SLURM_NTASKS']} processes, {tasks} on each machine "
        f"(--ntasks-per-node), and trainer.devices is {devices}, trainer.num_nodes {nodes}; "
        "make them equal, or use vitlab submit"
    )
