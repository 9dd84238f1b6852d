"""Ranks that die or hang end the others, with the reason."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress

import pytest
import torch.distributed as dist

from vitlab.callbacks import rank_watchdog
from vitlab.callbacks.rank_watchdog import RankWatchdog, missing

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_dead_rank_is_named_with_the_way_it_died():
    ranks = [subprocess.Popen(SLEEP) for _ in range(3)]
    assert missing(ranks, 0) == ""
    ways = [(2, signal.SIGKILL, "memory runs out"), (1, signal.SIGTERM, "killed by SIGTERM")]
    for rank, number, how in ways:
        ranks[rank].send_signal(number)
        ranks[rank].wait()
        assert missing(ranks, 0).startswith(f"rank {rank + 1} (process {ranks[rank].pid}) was")
        assert missing(ranks, 0).endswith(how)
    ranks[0].kill()
    ranks[0].wait()
    assert missing([], os.getppid()) == ""
    assert missing([], 7) == "the process 7 of the first rank is gone"


def test_a_first_rank_that_was_gone_before_this_one_looked_is_missed(monkeypatch):
    said, ended = [], threading.Event()
    monkeypatch.setattr(rank_watchdog, "observe_local_ranks", lambda observe: nullcontext())
    monkeypatch.setattr(rank_watchdog, "end", lambda reason: (said.append(reason), ended.set()))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(rank_watchdog.FIRST, "7")
    with rank_watchdog.watch_local_ranks(lambda: "go on"):
        assert ended.wait(30)
    assert said == ["the process 7 of the first rank is gone, so the others end too; go on"]


def test_a_first_rank_that_starts_no_others_is_not_missed(monkeypatch):
    """As of `--trainer.strategy ddp` on one device."""
    observers, said = [], []
    observe = lambda each: nullcontext(observers.append(each))  # noqa: E731
    monkeypatch.setattr(rank_watchdog, "observe_local_ranks", observe)
    monkeypatch.setattr(rank_watchdog, "end", said.append)
    for name in ("LOCAL_RANK", rank_watchdog.FIRST):
        monkeypatch.setenv(name, "0")
    with rank_watchdog.watch_local_ranks(lambda: "go on"):
        before = threading.active_count()
        observers[0]([])
        assert threading.active_count() == before
    assert not said


def test_a_rank_that_hangs_ends_with_the_first(monkeypatch):
    hung = subprocess.Popen(SLEEP)
    hung.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(rank_watchdog, "_started", [hung])
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        rank_watchdog.end("a rank has given no sign of life")
    assert hung.wait(10) == -signal.SIGKILL
    assert ended.value.code == 1


class EndedError(Exception):
    """Stands for the end of the process."""


class Ranks:
    """Ranks that are threads, on a store of their own."""

    def __init__(self):
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.said: dict[str, str] = {}  # by those that ended, by their names
        self.watchdogs: list[RankWatchdog] = []
        self.threads: list[threading.Thread] = []

    def watchdog(self) -> RankWatchdog:
        self.watchdogs.append(RankWatchdog())
        self.watchdogs[-1].remedy = lambda: "go on"
        return self.watchdogs[-1]

    def end(self, reason):
        self.said[threading.current_thread().name] = reason
        raise EndedError

    def start(self, work, *arguments, name) -> threading.Thread:
        def run():
            with suppress(EndedError):
                work(*arguments)

        self.threads.append(threading.Thread(target=run, name=name, daemon=True))
        self.threads[-1].start()
        return self.threads[-1]


@pytest.fixture
def ranks(monkeypatch):
    """After the test, no watchdog is left that could end the process of the tests."""
    ranks = Ranks()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(ranks.store.port))
    monkeypatch.setattr(rank_watchdog, "TICK", 0.02)
    monkeypatch.setattr(rank_watchdog, "end", ranks.end)
    yield ranks
    for watchdog in ranks.watchdogs:
        watchdog.over.set()
    for thread in ranks.threads:
        thread.join(5)


def test_a_silent_rank_is_missed_by_the_first_and_told_to_the_others(ranks):
    ranks.store.set("vitlab/who/2", "process 9 on far")
    ranks.store.add("vitlab/alive/2", 1)  # and never again
    for thread in [ranks.start(ranks.watchdog().beat, r, 3, name=str(r)) for r in (0, 1)]:
        thread.join(30)
    assert ranks.said.keys() == {"0", "1"}
    for reason in ranks.said.values():
        assert reason.startswith("rank 2 (process 9 on far) has given no sign of life for")
        assert reason.endswith("so the others end too; go on")


def test_a_first_rank_that_hangs_is_missed_by_the_others(ranks, monkeypatch):
    """Its machine keeps the connection, and an exchange with its store never returns."""
    closed = threading.Event()

    def hang(*_, **options):
        closed.wait(60)
        raise RuntimeError("connection closed")

    monkeypatch.setattr(dist, "TCPStore", hang)
    heart = ranks.watchdog()
    beating = ranks.start(heart.beat, 1, 2, name="beating")
    ranks.start(heart.listen, name="1").join(30)
    heart.over.set()
    closed.set()  # after the end of the run, no reason for an alarm
    beating.join(30)
    assert ranks.said.keys() == {"1"}
    assert ranks.said["1"].startswith("the first rank has given no sign of life for")


def test_heartbeats_go_on_until_the_end_of_the_run(ranks):
    heart = ranks.watchdog()
    threads = [ranks.start(heart.beat, 1, 2, name="1"), ranks.start(heart.listen, name="1")]
    for thread in threads:
        thread.join(1.5)  # more than the patience
        assert thread.is_alive()
    heart.on_exception()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not ranks.said
