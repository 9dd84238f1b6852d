"""Exit codes of `vitlab fit`, and the reason of an early end."""

import os
import signal
from pathlib import Path

import torch

from vitlab import distributed, signals
from vitlab.callbacks.preemption import Preempted, requeue
from vitlab.data import DataError
from vitlab.data.loader import WORKER_TIMEOUT
from vitlab.run import run_dir

FAILED = 1
REFUSED = 2  # input that cannot be used
STOPPED = 75  # EX_TEMPFAIL: the run was asked to stop and can go on


def exit_reason(error: BaseException, folder: Path, begun: bool) -> tuple[str, int] | None:
    """Return why a run ended and its exit code, or None for an error of the code.

    Args:
        error: that ended it.
        folder: of the run.
        begun: whether it ended after its own first step.
    """
    hint = run_dir.resume_hint(folder)
    if isinstance(error, Preempted):
        return (f"{error}; {_again(error) or hint}", STOPPED)
    if isinstance(error, SystemExit | KeyboardInterrupt):  # Lightning makes one of the other
        return (f"interrupted; {hint}", FAILED)
    if isinstance(error, DataError | FloatingPointError):
        # of an error in a loading process, only the message, not the traceback
        return (str(error).rpartition("DataError: ")[2], FAILED)
    if isinstance(error, torch.OutOfMemoryError):
        remedy = "set --data.micro_batch_size lower, which accumulates micro-batches"
        return (f"{error}\n{remedy}", FAILED)
    if isinstance(error, RuntimeError) and "DataLoader timed out" in str(error):
        return (
            f"no images came for {WORKER_TIMEOUT / 60:.0f} minutes: a process that loads them "
            "hangs, most "
            f"often as the file system does not answer; see to it, then {hint}",
            FAILED,
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        if asked_by := signals.noted():
            return (f"stopped by {signals.name_of(asked_by)}; {hint}", STOPPED)
        return (
            f"a process that loads images is gone ({_line(error)}), most often because memory ran "
            f"out; use fewer of them (--data.num_workers), then {hint}",
            FAILED,
        )
    if isinstance(error, OSError):
        # TensorBoard's does not say where
        place = "" if error.filename or str(folder) in str(error) else f", in {folder}"
        return (f"{error}{place}. See to it, then {hint}", FAILED)
    if isinstance(error, ValueError) and not begun:
        return (str(error), REFUSED)  # the checkpoint did not fit
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
