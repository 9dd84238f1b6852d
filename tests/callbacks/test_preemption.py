"""Signals are noted, acted on by all ranks between two steps, and followed by the right words."""

import os
import signal
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer

from vitlab import signals
from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.preemption import Preempted, Preemption, requeue
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
