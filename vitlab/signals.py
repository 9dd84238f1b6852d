"""Signals that ask a run to stop are noted, and acted on later, where nothing is lost.

A thread watches that they are, as the main one may wait in code that no signal reaches: it ends the
process when the same signal comes twice, or when nothing has acted on one for a minute. It also
says what the run waits for if that takes long.

Only the standard library: this is imported before anything heavy, since a signal that comes before
its handler kills the process.
"""

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTED = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75  # exit code EX_TEMPFAIL: asked to stop, and can go on
PATIENCE = 50.0  # seconds until a signal must have been acted on, and a wait is spoken of
TWICE = 0.3  # seconds within which a signal is the same one: `timeout` sends it twice
End = Callable[[str, int], object]


def _end(reason: str, code: int) -> None:
    os.write(2, f"vitlab: {reason}; start the same command again\n".encode())
    os._exit(code)


class _State:
    def __init__(self) -> None:
        self.listened: set[int] = set()
        self.noted: dict[int, float] = {}  # times, the first first
        self.patience = PATIENCE  # of this run
        self.acted = False
        self.end: End = _end
        self.wait: tuple[str, float, float] | None = None  # for what, since when, at most


_state = _State()


def noted() -> int:
    """Return the number of the first signal that asked this process to stop; 0 for none."""
    return next(iter(_state.noted), 0)


def acted() -> None:
    """Tell that the run is stopping: it writes a checkpoint, however long that takes."""
    _state.acted = True


def allow(seconds: float) -> None:
    """Allow so many seconds until a signal is acted on, if that is more: two of a run's steps."""
    _state.patience = max(_state.patience, seconds)


def end_by(end: End) -> None:
    """Have the process ended by this function from now on, from the reason and the exit code."""
    _state.end = end


def wait_for(what: str, limit: float = math.inf) -> None:
    """Say what is waited for if that takes nearly a minute; end the process after a limit.

    Args:
        what: a sentence with the cause and the remedy; "" when it has come.
        limit: seconds.
    """
    _state.wait = (what, time.monotonic(), limit) if what else None


def listen(*more: int) -> None:
    """Note SIGTERM, SIGUSR1 and `more` signals from now on, whoever handled them before."""
    if threading.current_thread() is threading.main_thread():  # others may set none
        for number in (*NOTED, *more):
            signal.signal(number, _note)
            _state.listened.add(number)


@contextmanager
def listening() -> Iterator[None]:
    """Note signals from now on; in the end, leave their handlers as they were.

    Ctrl-C is not among them, before there is anything to lose: only in processes that another rank
    has started, which decides for all.
    """
    global _state
    _state = _State()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*NOTED, signal.SIGINT)}
    come, go = os.pipe()
    os.set_blocking(go, False)
    # written by the system's handler, also while the main thread is in code that is not Python's
    wakeup = signal.set_wakeup_fd(go, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(come, _state), daemon=True)
    watch.start()
    listen(*([signal.SIGINT] if os.environ.get("LOCAL_RANK", "0") != "0" else []))
    if "SLURM_JOB_ID" in os.environ:  # where a signal may come at any time; tests wait for it
        rank = os.environ.get("SLURM_PROCID", "0")
        print(f"vitlab: rank {rank} is ready for signals", flush=True)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(go, b"\0")  # the end of the thread; loading processes may have the pipe, too
        watch.join()
        os.close(go)


def leave_to_parent(worker: int) -> None:
    """Ignore, in a process that loads data, what its parent is asked: it decides for both.

    Ctrl-C and SLURM signal all processes at once, and a parent whose loaders are gone could not
    finish its step.
    """
    signal.set_wakeup_fd(-1)  # it is the parent's
    for number in (*NOTED, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, frame: object = None) -> None:
    now = time.monotonic()
    if _state.noted.setdefault(number, now) is now:
        name = signal.Signals(number).name
        text = f"vitlab: {name} noted; the run stops after this step, or within a minute"
        again = "" if number == signal.SIGUSR1 else "; once more stops it at once"
        # print may not be called while another print is at work
        os.write(2, f"{text}{again}\n".encode())


def _watch(come: int, state: _State) -> None:
    """Read the signals as they come, and see what becomes of them."""
    seen: dict[int, float] = {}
    spoken: object = None
    while True:
        ready = select.select([come], [], [], min(1.0, PATIENCE / 4))[0]
        numbers = os.read(come, 64) if ready else b""
        now = time.monotonic()
        end = ("", STOPPED)
        for number in numbers:
            if number in state.listened:  # not those of loading processes that have ended
                _note(number)
                # SLURM may repeat its signal
                if now - seen.setdefault(number, now) > TWICE and number != signal.SIGUSR1:
                    name = signal.Signals(number).name
                    end = (f"stopped at once by {name}, which came twice", STOPPED)
        if 0 in numbers:
            os.close(come)
            return
        what, since, limit = state.wait or ("", now, PATIENCE)
        first = next(iter(state.noted.values()), now)
        if now - first > state.patience and not state.acted:
            name = signal.Signals(next(iter(state.noted))).name
            reason = f"stopped by {name}: no step came to its end in {now - first:.0f} s"
            end = (f"{reason}; {what}" if what else reason, STOPPED)
        elif now - since > limit:
            end = (f"{what}; it has been waited for {now - since:.0f} s", 1)
        elif now - since > PATIENCE and spoken != state.wait:
            spoken = state.wait
            os.write(2, f"vitlab: waiting for {now - since:.0f} s; {what}\n".encode())
        if end[0]:
            state.acted, state.wait = True, None
            state.end(*end)
