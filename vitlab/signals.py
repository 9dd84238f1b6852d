"""Signals that ask a run to stop are noted, and acted on later, where nothing is lost.

Only the standard library: this is imported before anything heavy, since a signal that comes before
its handler kills the process.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NOTED = (signal.SIGTERM, signal.SIGUSR1)
_noted: list[int] = []


def noted() -> int:
    """Return the number of the first signal that asked this process to stop; 0 for none."""
    return _noted[0] if _noted else 0


def listen(*more: int) -> None:
    """Note SIGTERM, SIGUSR1 and `more` signals from now on, whoever handled them before."""
    if threading.current_thread() is threading.main_thread():  # others may set none
        for number in (*NOTED, *more):
            signal.signal(number, _note)


@contextmanager
def listening() -> Iterator[None]:
    """Note signals from now on; in the end, leave their handlers as they were.

    Ctrl-C is not among them, before there is anything to lose: only in processes that another rank
    has started, which decides for all.
    """
    before = {number: signal.getsignal(number) for number in (*NOTED, signal.SIGINT)}
    _noted.clear()
    listen(*([signal.SIGINT] if os.environ.get("LOCAL_RANK", "0") != "0" else []))
    if "SLURM_JOB_ID" in os.environ:  # where a signal may come at any time; tests wait for it
        rank = os.environ.get("SLURM_PROCID", "0")
        print(f"vitlab: rank {rank} is ready for signals", flush=True)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_to_parent(worker: int) -> None:
    """Ignore, in a process that loads data, what its parent is asked: it decides for both.

    Ctrl-C and SLURM signal all processes at once, and a parent whose loaders are gone could not
    finish its step.
    """
    for number in (*NOTED, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, frame: object) -> None:
    if number == signal.SIGINT and number in _noted:
        raise KeyboardInterrupt
    if number not in _noted:
        again = "; once more stops at once" if number == signal.SIGINT else ""
        name = signal.Signals(number).name
        # print may not be called while another print is at work
        os.write(2, f"vitlab: {name} noted; the run stops after this step{again}\n".encode())
    _noted.append(number)
