"""Watchdog of ranks: a run whose ranks are not all alive ends within a minute, with the reason.

Without it, the other ranks would wait in the next exchange of gradients until the backend's
time-out: ten minutes with NCCL, thirty with gloo.
"""

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from vitlab import signals
from vitlab.launch import FIRST
from vitlab.run.lightning_compat import observe_local_ranks
from vitlab.run.run_dir import resume_hint
from vitlab.terminal import complain

TICK = 4.0  # seconds between two signs of life
PATIENCE = 10  # ticks without one after which a rank counts as dead
_started: list[subprocess.Popen] = []  # by this process, the other ranks on this machine


@contextmanager
def watch_local_ranks(remedy: Callable[[], str]) -> Iterator[None]:
    """Watch the ranks that Lightning starts in this block, or the one that started this process.

    Lightning's own observer kills the first rank without a message.

    Args:
        remedy: returns how to continue, as text.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"

    def watch(started: Sequence[subprocess.Popen]) -> None:
        if first and not started:
            return
        _started.extend(started)
        # it may be gone before this rank has imported what asks for it
        parent = int(os.environ.get(FIRST, os.getppid()))

        def look() -> None:
            while not (reason := missing(started, parent)):
                time.sleep(1)
            end(f"{reason}, so the others end too; {remedy()}")

        threading.Thread(target=look, daemon=True).start()

    if first:
        os.environ[FIRST] = str(os.getpid())
    elif FIRST in os.environ or "SLURM_STEP_ID" not in os.environ:
        watch([])
    with observe_local_ranks(watch):
        yield


def missing(started: Sequence[subprocess.Popen], parent: int) -> str:
    """Return who is gone and how; "" for nobody.

    Args:
        started: the other ranks on this machine, in order; none in those ranks themselves.
        parent: process ID of the first rank, which those ranks look for.
    """
    if not started and os.getppid() != parent:
        return f"the process {parent} of the first rank is gone"
    for rank, process in enumerate(started, 1):
        if code := process.poll():
            how = f"ended with exit code {code}, for the reason above"
            if code < 0:
                how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += ", as the system does when memory runs out"
            return f"rank {rank} (process {process.pid}) {how}"
    return ""


class RankWatchdog(Callback):
    """Each rank gives signs of life; the first misses them, and the others miss its store.

    A thread of its own gives them, so that long work of the others is no reason for an alarm; one
    that hangs is left to the time-outs of the backend and of the data loader. Ticks are those of
    this process: if all processes are suspended, so is it.
    """

    def __init__(self) -> None:
        self.remedy: Callable[[], str] = str  # returns how to continue, as text
        self.over = threading.Event()
        self.beats = 0  # answers of the first rank's store

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin, where there is more than one rank: all of them have come."""
        signals.wait_for("")
        self.remedy = partial(resume_hint, Path(trainer.default_root_dir))
        if trainer.world_size > 1:
            ranks = (trainer.global_rank, trainer.world_size)
            threading.Thread(target=self.beat, args=ranks, daemon=True).start()
            threading.Thread(target=self.listen, daemon=True).start()

    def teardown(self, *of_run: object, stage: str = "") -> None:
        """End: those who wait for this rank get no more of it."""
        self.over.set()

    on_exception = teardown  # type: ignore[assignment]

    def listen(self) -> None:
        """End when the store no longer answers: one on a machine that hangs never refuses."""
        silent = heard = 0
        while not self.over.wait(TICK):
            silent = silent + 1 if self.beats == heard else 0
            heard = self.beats
            if silent > PATIENCE:
                end(self._silent("the first rank", "this one ends"))

    def beat(self, rank: int, world_size: int) -> None:
        """Exchange signs of life until the run is over, or a rank is missing."""
        try:
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=30),
            )
            store.set(f"vitlab/who/{rank}", f"process {os.getpid()} on {platform.node()}")
            seen, silent = [0] * world_size, [0] * world_size
            while True:
                store.add(f"vitlab/alive/{rank}", 1)
                self.beats += 1
                if rank and store.check(["vitlab/end"]):
                    end(store.get("vitlab/end").decode())
                for other in range(1, world_size if rank == 0 else 0):
                    count = store.add(f"vitlab/alive/{other}", 0)
                    silent[other] = silent[other] + 1 if count == seen[other] else 0
                    seen[other] = count
                    if silent[other] > PATIENCE and count:
                        who = store.get(f"vitlab/who/{other}").decode()
                        reason = self._silent(f"rank {other} ({who})", "the others end too")
                        store.set("vitlab/end", reason)
                        time.sleep(2 * TICK)  # for the others to read it
                        end(reason)
                if self.over.wait(TICK):
                    return
        except RuntimeError as error:  # of the connection
            if not self.over.wait(TICK):  # the first rank may have come to its end a moment ago
                end(f"the first rank is gone ({_line(error)}), so this one ends; {self.remedy()}")

    def _silent(self, who: str, then: str) -> str:
        seconds = TICK * PATIENCE
        return f"{who} has given no sign of life for {seconds:.0f} s, so {then}; {self.remedy()}"


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error is that of an exchange with another rank, which is gone or too late."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def lost_rank(error: BaseException, remedy: Callable[[], str]) -> NoReturn:
    """End the process after such an error.

    Who watches the others knows more than the connection does, and has a moment to say it.
    """
    time.sleep(2 * TICK)
    end(f"another rank is gone or does not answer ({_line(error)}); {remedy()}")


def end(reason: str, code: int = 1) -> NoReturn:
    """Say the reason and end the process at once, whatever its other threads wait for.

    The processes it has started end with it: one that hangs could not notice.
    """
    sys.stdout.flush()
    complain(reason)
    for kill in [each.kill for each in _started + multiprocessing.active_children()]:
        kill()
    os._exit(code)


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
