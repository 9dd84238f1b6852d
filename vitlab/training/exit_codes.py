"""Why a run ended before its end, in a sentence, and with which exit code."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from vitlab import distributed, signals
from vitlab.callbacks.preemption import Preempted, requeue
from vitlab.data import DataError
from vitlab.data.loader import WORKER_TIMEOUT
from vitlab.training import run_dir

FAILED = 1
REFUSED = 2  # what was given cannot be used
STOPPED = 75  # EX_TEMPFAIL: the run was asked to stop and can go on


@dataclass(frozen=True)
class Ending:
    """What is said at the end, and the exit code."""

    reason: str
    code: int


def resume_hint(folder: Path) -> str:
    """Return how to go on with a run."""
    if not run_dir.resumable_checkpoints(folder):
        return "start anew, as nothing is saved yet"
    return f"continue with --run-dir {folder} --ckpt_path last"


def ending(error: BaseException, folder: Path, begun: bool) -> Ending | None:
    """Return why a run ended, or None for an error of the code, whose place is of interest.

    Args:
        error: that ended it.
        folder: of the run.
        begun: whether it ended after its own first step.
    """
    goes_on = resume_hint(folder)
    if isinstance(error, Preempted):
        return Ending(f"{error}; {_again(error) or goes_on}", STOPPED)
    if isinstance(error, SystemExit | KeyboardInterrupt):  # Lightning makes one of the other
        return Ending(f"interrupted; {goes_on}", FAILED)
    if isinstance(error, DataError | FloatingPointError):
        # of an error in a loading process, only what it says, not where
        return Ending(str(error).rpartition("DataError: ")[2], FAILED)
    if isinstance(error, torch.OutOfMemoryError):
        remedy = "set --data.micro_batch_size lower, which accumulates micro-batches"
        return Ending(f"{error}\n{remedy}", FAILED)
    if isinstance(error, RuntimeError) and "DataLoader timed out" in str(error):
        return Ending(
            f"no images came for {WORKER_TIMEOUT / 60:.0f} minutes: a process that loads them "
            "hangs, most "
            f"often as the file system does not answer; see to it, then {goes_on}",
            FAILED,
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        if asked_by := signals.noted():
            return Ending(f"stopped by {signals.name_of(asked_by)}; {goes_on}", STOPPED)
        return Ending(
            f"a process that loads images is gone ({_line(error)}), most often because memory ran "
            f"out; use fewer of them (--data.num_workers), then {goes_on}",
            FAILED,
        )
    if isinstance(error, OSError):
        # TensorBoard's does not say where
        place = "" if error.filename or str(folder) in str(error) else f", in {folder}"
        return Ending(f"{error}{place}. See to it, then {goes_on}", FAILED)
    if isinstance(error, ValueError) and not begun:
        return Ending(str(error), REFUSED)  # the checkpoint did not fit
    return None


def _again(stopped: Preempted) -> str:
    """Queue the job again before its time is up; return what came of it, "" for nothing."""
    if (
        distributed.rank() != 0
        or stopped.signal != signal.SIGUSR1
        or "SLURM_JOB_ID" not in os.environ
    ):
        return ""
    if stopped.further:
        return requeue()
    # the next start would come no further, and so on without end
    return (
        "this start has come no further than the last one, so the job is not queued again; submit "
        "it again with more --time or a smaller --signal-before"
    )


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0]
