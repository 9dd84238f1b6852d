"""Exit codes of `vitlab fit`, and the reason of an early end."""

import os
import signal
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vitlab import distributed, signals
from vitlab.callbacks.preemption import Preempted
from vitlab.cluster.slurm import requeue
from vitlab.data import DataError
from vitlab.data.loader import LoadingError, why_no_images
from vitlab.errors import InputError
from vitlab.run import run_dir
from vitlab.signals import STOPPED

FAILED = 1
REFUSED = 2  # input that cannot be used


def exit_reason(error: BaseException, folder: Path, begun: bool) -> tuple[str, int] | None:
    """Return why a run ended and its exit code, or None for an error of the code.

    Args:
        error: that ended it.
        folder: of the run.
        begun: whether it ended after its own first step.
    """
    hint, text, asked = run_dir.resume_hint(folder), str(error), signals.noted()
    match error:
        case Preempted():
            return f"{text}; {again(error) or hint}", STOPPED
        case SystemExit() | KeyboardInterrupt():  # Lightning makes one of the other
            return f"interrupted; {hint}", FAILED
        case RuntimeError() | LoadingError() if reason := why_no_images(error):
            stopped = f"stopped by {signal.Signals(asked).name}; {hint}" if asked else ""
            return (stopped, STOPPED) if stopped else (f"{reason}, then {hint}", FAILED)
        case DataError() | FloatingPointError():
            # of an error in a loading process, only the message, not the traceback
            return text.rpartition("DataError: ")[2], FAILED
        case torch.OutOfMemoryError():
            remedy = "set --data.micro_batch_size lower, which accumulates micro-batches"
            return f"{text}\n{remedy}", FAILED
        case OSError():  # TensorBoard's does not say where
            place = "" if error.filename or str(folder) in text else f", in {folder}"
            return f"{text}{place}. See to it, then {hint}", FAILED
        case InputError():  # of a callback that changes what the config decides
            return (f"{text}; {hint}", FAILED) if begun else (text, REFUSED)
        case MisconfigurationException():  # of a callback, or of Lightning with it
            return text, REFUSED
        case ValueError() if not begun:
            return text, REFUSED  # the checkpoint did not fit
    return None


def again(stopped: Preempted) -> str:
    """Queue the job again before its time is up; return what came of it, "" for nothing."""
    in_slurm = "SLURM_JOB_ID" in os.environ
    if distributed.rank() != 0 or stopped.signal != signal.SIGUSR1 or not in_slurm:
        return ""
    if stopped.further:
        return requeue()
    # the next start would come no further, and so on without end
    return (
        "this start has come no further than the last one, so the job is not queued again; submit "
        "it again with more --time or a smaller --signal-before"
    )
