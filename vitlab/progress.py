"""Progress of long work on standard error: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vitlab import distributed
from vitlab.terminal import console, printable

Item = TypeVar("Item")
FIRST, INTERVAL = 5.0, 30.0  # seconds until the first plain line, and between the others


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Go through the items of long work.

    Args:
        items: in order.
        what: they are for, such as "features of val".
        total: how many they are, where they have no length; None for unknown.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    with ProgressBar(what, count) as bar:
        for item in items:
            yield item
            bar.advance()


class ProgressBar:
    """Progress of work that calls `advance`; only the first rank shows it.

    Args:
        what: the work.
        total: steps of the work; None where it is not known.
    """

    def __init__(self, what: str, total: int | None):
        self.what, self.total, self.done = printable(what), total, 0
        self.began = time.monotonic()
        self.line = PlainLine()
        self.bars: Progress | None = None

    def __enter__(self) -> "ProgressBar":
        on = console(stderr=True)
        self.hidden = distributed.rank() > 0
        if on.is_terminal and not self.hidden:
            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self.bars = Progress(*columns, TimeRemainingColumn(), console=on, transient=True)
            self.bars.add_task(self.what, total=self.total)
            self.bars.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        if self.bars:
            self.bars.stop()

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self.done += steps
        if self.bars:
            self.bars.advance(self.bars.task_ids[0], steps)
        elif not self.hidden and self.line.is_due():
            text = f"{self.what}: {self.done:,}"
            if self.total:
                left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
                text += f" of {self.total:,}, {duration(left)} left"
            self.line.print(text)


class PlainLine:
    """Lines at intervals, for logs."""

    def __init__(self) -> None:
        self.due = time.monotonic() + FIRST

    def is_due(self) -> bool:
        """Whether it is time for the next line."""
        return time.monotonic() >= self.due

    def print(self, text: str) -> None:
        """Write the line and wait for the next interval."""
        print(printable(text), file=sys.stderr, flush=True)
        self.due = time.monotonic() + INTERVAL


def duration(seconds: float) -> str:
    """Return a duration as hours:minutes:seconds, with days from one day on."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock
