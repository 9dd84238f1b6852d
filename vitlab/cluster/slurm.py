"""The two commands of SLURM that vitlab asks: sbatch and squeue."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
FIELDS = "%i|%T|%r"  # of squeue: number, state, why it waits
PATIENCE = 20  # seconds that a busy controller may take


@dataclass(frozen=True)
class Queued:
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


def queue() -> dict[str, Queued]:
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
    return {number.strip(): Queued(state, reason) for number, state, reason in rows}
