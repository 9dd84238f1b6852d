"""Ranks that die or hang end the others, with the reason."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from vitlab.callbacks import rank_watchdog
from vitlab.callbacks.rank_watchdog import ProcessWatcher, RankWatchdog


def test_a_dead_rank_is_named_with_the_way_it_died():
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    ranks = [subprocess.Popen(words) for _ in range(2)]
    kin = ProcessWatcher(ranks, lambda: "")
    assert kin.missing() == ""
    ranks[1].kill()
    ranks[1].wait()
    assert kin.missing().startswith(f"rank 2 (process {ranks[1].pid}) was killed by SIGKILL")
    ranks[0].terminate()
    ranks[0].wait()
    assert kin.missing().endswith("was killed by SIGTERM")


def test_a_first_rank_that_was_gone_before_this_one_looked_is_missed(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(rank_watchdog.FIRST, str(gone.pid))
    assert (
        ProcessWatcher([], lambda: "").missing()
        == f"the process {gone.pid} of the first rank is gone"
    )


def test_a_rank_that_hangs_ends_with_the_first(monkeypatch):
    hung = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    hung.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(rank_watchdog, "_started", [hung])
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        rank_watchdog.end("a rank has given no sign of life")
    assert hung.wait(10) == -signal.SIGKILL
    assert ended.value.code == 1


class EndedError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def beats(monkeypatch):
    """Run the heartbeat of some ranks against a store; return what they say at their end."""
    said: dict[int, str] = {}
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(rank_watchdog, "TICK", 0.02)
    hearts: list[RankWatchdog] = []

    def end(reason):
        said[int(threading.current_thread().name)] = reason
        raise EndedError

    def run(rank: int):
        heart = RankWatchdog(lambda: "go on")
        hearts.append(heart)
        monkeypatch.setattr(rank_watchdog, "end", end)
        with pytest.raises(EndedError):
            heart._beat(rank, 3)

    def start(rank: int) -> threading.Thread:
        thread = threading.Thread(target=run, args=(rank,), name=str(rank), daemon=True)
        thread.start()
        return thread

    return start, said, store


def test_a_silent_rank_is_missed_by_the_first_and_told_to_the_others(beats):
    start, said, store = beats
    store.set("vitlab/who/2", "process 9 on far")
    store.add("vitlab/alive/2", 1)  # and never again
    for thread in [start(0), start(1)]:
        thread.join(30)
    assert said.keys() == {0, 1}
    for reason in said.values():
        assert reason.startswith("rank 2 (process 9 on far) has given no sign of life for")
        assert reason.endswith("so the others end too; go on")


def test_a_first_rank_that_hangs_is_missed_by_the_others(monkeypatch):
    """Its machine keeps the connection, and an exchange with its store never returns."""

    class HungStore:
        def __init__(self, *args, **options):
            pass

        def set(self, *args):
            closed.wait(60)
            raise RuntimeError("connection closed")

    def end(reason):
        said.append(reason)
        raise EndedError

    said: list[str] = []
    closed = threading.Event()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(dist, "TCPStore", HungStore)
    monkeypatch.setattr(rank_watchdog, "TICK", 0.02)
    monkeypatch.setattr(rank_watchdog, "end", end)
    heart = RankWatchdog(lambda: "go on")
    thread = threading.Thread(target=heart.beat, daemon=True)
    thread.start()
    with pytest.raises(EndedError):
        heart.listen()
    heart.over.set()
    closed.set()
    thread.join(30)
    assert not thread.is_alive()
    (reason,) = said
    assert reason.startswith("the first rank has given no sign of life")


def test_a_heartbeat_ends_with_the_run(beats):
    _, _, _ = beats
    heart = RankWatchdog(lambda: "")
    thread = threading.Thread(target=heart._beat, args=(1, 2), daemon=True)
    thread.start()
    time.sleep(0.1)
    heart.over.set()
    thread.join(30)
    assert not thread.is_alive()
