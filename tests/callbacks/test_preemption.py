"""Signals are noted, acted on by all ranks between two steps, and followed by the right words."""

import os
import signal
import subprocess
import sys
import threading
import time
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer

from vitlab import signals
from vitlab.callbacks import rank_watchdog
from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.preemption import Preempted, Preemption, requeue
from vitlab.callbacks.rank_watchdog import ProcessWatcher, RankWatchdog
from vitlab.data import DataError
from vitlab.training.exit_codes import exit_reason


def test_signals_are_noted_and_their_handlers_put_back(capfd):
    before = [signal.getsignal(number) for number in signals.NOTED]
    with signals.listening():
        assert signals.noted() == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.noted() == signal.SIGUSR1  # the first one counts
    assert [signal.getsignal(number) for number in signals.NOTED] == before
    assert "SIGUSR1 noted; the run stops after this step" in capfd.readouterr().err


def test_ctrl_c_is_pressed_twice_to_stop_at_once():
    with signals.listening():
        signals.listen(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.noted() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_slurm_each_rank_says_when_it_is_ready(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with signals.listening():
        assert capsys.readouterr().out == "vitlab: rank 3 is ready for signals\n"


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
    ],
)
def test_a_job_is_requeued_by_its_number(monkeypatch, tmp_path, variables, job):
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"; exit ${REFUSED:-0}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert requeue() == f"job {job} is requeued"
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
    monkeypatch.setenv("REFUSED", "1")
    assert "could not be requeued" in requeue()


@pytest.mark.parametrize(
    ("first", "step", "saved", "words"),
    [
        (11, 11, -1, "come no further than the last one, so the job is not queued again"),
        (11, 12, -1, "job 12 is requeued"),
        (11, 11, 11, "job 12 is requeued"),  # it has measured
    ],
)
def test_a_job_that_comes_no_further_is_not_queued_for_ever(
    monkeypatch, tmp_path, first, step, saved, words
):
    (tmp_path / "scontrol").write_text("#!/bin/sh\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stopping = Preemption(Mock(spec=CheckpointCallback, step=saved, due=False))
    stopping.first = first  # step of this start
    monkeypatch.setattr(signals, "noted", lambda: signal.SIGUSR1)
    with pytest.raises(Preempted) as raised:
        stopping.pause(Mock(spec=Trainer, global_step=step))
    asked = raised.value
    assert "requeued" not in str(exit_reason(asked, tmp_path, begun=True))  # outside of SLURM
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    found = exit_reason(asked, tmp_path, begun=True)
    assert found is not None
    assert words in found[0]
    assert found[1] == 75


ENDS = [
    (Preempted(signal.SIGTERM, 12, True), "at step 12; start anew, as nothing is saved yet", 75),
    (SystemExit(1), "interrupted", 1),
    (DataError("no images"), "no images", 1),
    (FloatingPointError("the loss is nan"), "the loss is nan", 1),
    (torch.OutOfMemoryError("out"), "micro_batch_size lower", 1),
    (
        RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."),
        "--data.num_workers",
        1,
    ),
    (RuntimeError("DataLoader timed out after 600 seconds"), "no images came for 10 minutes", 1),
    (OSError(28, "No space left on device"), "No space left", 1),
    (ValueError("the checkpoint is of another model"), "another model", 2),
]


@pytest.mark.parametrize(("error", "words", "code"), ENDS, ids=lambda x: type(x).__name__)
def test_an_end_has_a_sentence_and_a_code(tmp_path, error, words, code):
    found = exit_reason(error, tmp_path, begun=False)
    assert found is not None
    assert words in found[0]
    assert found[1] == code


def test_an_error_of_the_code_keeps_its_place(tmp_path):
    assert exit_reason(ZeroDivisionError(), tmp_path, begun=True) is None
    assert exit_reason(ValueError("of a loss"), tmp_path, begun=True) is None


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
