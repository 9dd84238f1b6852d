"""Signals are noted, acted on by all ranks between two steps, and followed by the right words."""

import os
import signal
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from chaos import wait
from lightning import Trainer

from vitlab import distributed, signals
from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.preemption import Preempted, Preemption
from vitlab.data import DataError
from vitlab.training.exit_codes import exit_reason


@pytest.fixture
def ended(monkeypatch) -> list[tuple[str, int]]:
    """The reasons for which the process would have been ended."""
    said: list[tuple[str, int]] = []
    monkeypatch.setattr(signals, "PATIENCE", 0.2)
    monkeypatch.setattr(signals, "TWICE", 0.05)
    monkeypatch.setattr(signals, "_end", lambda reason, code: said.append((reason, code)))
    return said


def until(said: list, seconds: float = 10.0) -> None:
    assert wait(lambda: bool(said), seconds), "the process would not have been ended"


def test_signals_are_noted_and_their_handlers_put_back(monkeypatch, capfd, ended):
    monkeypatch.setattr(signals, "PATIENCE", 60.0)
    before = [signal.getsignal(number) for number in signals.NOTED]
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with signals.listening():
        assert signals.noted() == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.noted() == signal.SIGUSR1  # the first one counts
        signals.listen(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        for number in (signal.SIGINT, signal.SIGUSR1):  # at once: the same one; SLURM's
            os.kill(os.getpid(), number)
        assert not wait(lambda: bool(ended), 0.3)
        os.kill(os.getpid(), signal.SIGINT)
        until(ended)
    assert ended == [("stopped at once by SIGINT, which came twice", 75)]
    assert [signal.getsignal(number) for number in signals.NOTED] == before
    said, noted = capfd.readouterr()
    assert said == "vitlab: rank 3 is ready for signals\n"
    assert "SIGUSR1 noted; the run stops after this step" in noted


def test_a_signal_that_finds_no_step_ends_the_process_and_names_what_is_waited_for(ended):
    with signals.listening():
        signals.wait_for("no images have come")
        os.kill(os.getpid(), signal.SIGTERM)
        until(ended)
    ((reason, code),) = ended
    assert reason.startswith("stopped by SIGTERM: no step came to its end in")
    assert reason.endswith(" s; no images have come")
    assert code == 75


def test_a_run_that_acts_on_a_signal_or_has_long_steps_is_left_alone(ended, monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 2.0)
    stopping = Preemption(Mock(spec=CheckpointCallback, step=3, due=False))
    run = Mock(spec=Trainer, global_step=3)
    for prepare in (partial(signals.allow, 60.0), None):
        with signals.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            if prepare:
                prepare()
            else:
                with pytest.raises(Preempted):
                    stopping.pause(run, due=False)
            assert not wait(lambda: bool(ended), 3.0), ended


def test_what_is_waited_for_is_named_and_ends_the_process_after_its_limit(ended, capfd):
    with signals.listening():
        signals.wait_for("the others have not come", limit=0.6)
        until(ended)
    assert " s; the others have not come" in capfd.readouterr().err
    ((reason, code),) = ended
    assert reason.startswith("the others have not come; it has been waited for")
    assert code == 1


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
        stopping.pause(Mock(spec=Trainer, global_step=step), due=False)
    assert stopping.checkpoints.save.called == (saved != step)
    asked = raised.value
    assert "requeued" not in str(exit_reason(asked, tmp_path, begun=True))  # outside of SLURM
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    said, code = exit_reason(asked, tmp_path, begun=True)
    assert words in said
    assert code == 75
    terminated = Preempted(signal.SIGTERM, step, further=True)
    assert "requeued" not in str(exit_reason(terminated, tmp_path, begun=True))


def test_ranks_that_continue_from_different_steps_are_refused(monkeypatch):
    monkeypatch.setattr(signals, "listen", lambda: None)
    monkeypatch.setattr(distributed, "all_reduce_max", lambda values: [-3, 5, 0])
    stopping = Preemption(Mock(spec=CheckpointCallback))
    with pytest.raises(OSError, match="different steps, 3 to 5"):
        stopping.on_train_start(Mock(spec=Trainer, global_step=5))


def caused(text: str, by: str) -> RuntimeError:
    error = RuntimeError(text)
    error.__cause__ = RuntimeError(by)
    return error


ENDS = [
    (Preempted(signal.SIGTERM, 12, True), "at step 12; start anew, as nothing is saved yet", 75),
    (SystemExit(1), "interrupted", 1),
    (DataError("no images"), "no images", 1),
    (FloatingPointError("the loss is nan"), "the loss is nan", 1),
    (torch.OutOfMemoryError("out"), "micro_batch_size lower", 1),
    (RuntimeError("DataLoader worker (pid 5) is killed by signal"), "--data.num_workers", 1),
    (RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error"), "shm-size 8g", 1),
    (RuntimeError("DataLoader worker (pid 5) exited with exit code 28."), "shm-size 8g", 1),
    (RuntimeError("DataLoader worker (pid 5) exited with exit code 1."), "reason above", 1),
    (
        caused("DataLoader worker (pid(s) 5) exited", "DataLoader worker (pid 5) exit code 28"),
        "shm",
        1,
    ),
    (caused("DataLoader worker (pid(s) 5) exited", ""), "memory ran out", 1),
    (RuntimeError("DataLoader timed out after 600 seconds"), "no images came for 10 minutes", 1),
    (OSError(28, "No space left on device"), "No space left", 1),
    (ValueError("the checkpoint is of another model"), "another model", 2),
]


@pytest.mark.parametrize(("error", "words", "code"), ENDS, ids=lambda x: type(x).__name__)
def test_an_end_has_a_sentence_and_a_code(tmp_path, monkeypatch, error, words, code):
    monkeypatch.setattr(signals, "noted", lambda: 0)
    said, found = exit_reason(error, tmp_path, begun=False)
    assert words in said
    assert found == code
    if "DataLoader worker" in str(error):  # the system asked its loaders to stop as well
        monkeypatch.setattr(signals, "noted", lambda: signal.SIGTERM)
        asked = exit_reason(error, tmp_path, begun=False)
        assert asked == ("stopped by SIGTERM; start anew, as nothing is saved yet", 75)


def test_an_error_of_the_code_keeps_its_place(tmp_path):
    for error in (ZeroDivisionError(), ValueError("of a loss"), RuntimeError("of a shape")):
        assert exit_reason(error, tmp_path, begun=True) is None
