"""Progress of long work on standard error: bars on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from multiprocessing import parent_process
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from vitlab.launch import RANKS
from vitlab.terminal import console, printable

Item = TypeVar("Item")
FIRST, INTERVAL = 5.0, 30.0  # seconds until the first plain line, and between the others
TICK = 0.5  # seconds between two looks at what works without a word
WIDTH = 16  # columns of a bar


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
    """Progress of work, which may be part of other work; only the first rank shows it.

    Args:
        what: the work.
        total: steps of the work; None where it is not known, or there are none to count.
    """

    def __init__(self, what: str, total: int | None = None):
        self.what, self.total, self.done = printable(what), total, 0
        self.began = time.monotonic()
        self.due = self.began + FIRST  # for a plain line

    def __enter__(self) -> "ProgressBar":
        if is_first():
            DISPLAY.begin(self)
        return self

    def __exit__(self, *raised: Any) -> None:
        DISPLAY.end(self)

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self.done += steps
        if self in DISPLAY.working:
            DISPLAY.tell()

    def text(self) -> str:
        """Return the line."""
        seconds = time.monotonic() - self.began
        if not self.done and self.total is None:
            return f"{self.what}, {duration(seconds)}"
        if not self.total:
            return f"{self.what}: {self.done:,}"
        text = f"{self.what}: {self.done:,} of {self.total:,}"
        if not self.done:
            return text
        return f"{text}, {duration(seconds / self.done * (self.total - self.done))} left"


class Display:
    """All that works now: a line for each on a terminal, elsewhere one for all at intervals."""

    def __init__(self) -> None:
        self.working: list[ProgressBar] = []
        self.bars: Progress | None = None
        self.ended, self.lock = Event(), Lock()

    def begin(self, work: ProgressBar) -> None:
        """Show more work, within all that is shown."""
        if not self.working:
            on = console(stderr=True)
            if on.is_terminal:
                own = {"console": on, "transient": True, "redirect_stdout": sys.stdout.isatty()}
                self.bars = Progress(BarColumn(WIDTH), _Line(), **own)
                self.bars.start()
            else:
                self.ended = Event()
                Thread(target=self._watch, args=[self.ended], daemon=True).start()
        self.working.append(work)
        if self.bars:
            self.bars.add_task("", total=work.total, of=work)

    def end(self, work: ProgressBar) -> None:
        """Show work no longer."""
        if work not in self.working:
            return
        self.working.remove(work)
        for task in self.bars.tasks if self.bars else ():
            if task.fields["of"] is work:
                self.bars.remove_task(task.id)  # type: ignore[union-attr]
        if not self.working:
            self.ended.set()
            if self.bars:
                self.bars.stop()
            self.bars = None

    def tell(self) -> None:
        """Print a plain line where one is due."""
        with self.lock:
            now, working = time.monotonic(), list(self.working)
            if self.bars:
                for task in self.bars.tasks:
                    work = task.fields["of"]
                    self.bars.update(task.id, completed=work.done, total=work.total)
            elif any(now >= each.due for each in working):
                for each in working:
                    each.due = now + INTERVAL
                around = [each.what for each in working[:-1] if each.what]
                line = ": ".join([*around, working[-1].text()])
                print(printable(line), file=sys.stderr, flush=True)

    def _watch(self, ended: Event) -> None:
        """Tell of work that does not advance, such as a fit."""
        while not ended.wait(TICK):
            self.tell()


class _Line(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["of"].text())


DISPLAY = Display()


def is_first() -> bool:
    """Whether this process is the first of its run, also before torch is there to say so.

    Processes that load images are not.
    """
    if parent_process() or any((os.environ.get(name) or "0") != "0" for name in RANKS):
        return False
    if "torch" not in sys.modules:
        return True
    from vitlab import distributed

    return not distributed.rank()


def duration(seconds: float) -> str:
    """Return a duration as hours:minutes:seconds, with days from one day on."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock
