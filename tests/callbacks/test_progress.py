"""The line of a whole run: what is left is steps and measurements, each at its mean."""

import io
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from lightning import Trainer
from rich.console import Console

from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.progress import RunProgress
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.callbacks.validation import Validation
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress
from vitlab.progress import DISPLAY


def stub(**attributes: object) -> Trainer:
    return Mock(spec=Trainer, **attributes)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    seconds = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    return seconds


@pytest.mark.parametrize(
    ("every", "epoch", "left"), [(10, 0, 3), (10, 9, 3), (10, 10, 2), (10, 20, 1), (0, 3, 1),
     (7, 21, 2)],
)  # fmt: skip
def test_measurements_that_are_left_include_the_last_epoch(every, epoch, left):
    trainer = stub(current_epoch=epoch, max_epochs=30)
    validation = Validation(every)
    assert validation.measurements_left(trainer) == left
    validation.check(Mock(spec=Objective, classifiers=dict), None)
    assert not validation.measurements_left(trainer)  # as there is no classifier


def test_the_line_counts_steps_and_measurements_at_their_mean(clock, capsys):
    probing, validation = OnlineProbes(1), Validation(1)
    with probing.timed("pixels"):
        clock[0] += 1  # which tells nothing of those to come
    with probing.timed("untrained"):
        clock[0] += 40
    throughput = ThroughputMonitor()
    throughput.seconds, throughput.seconds_waited = 50.0, 10.0
    shown = RunProgress([probing, validation], throughput)
    trainer = stub(
        global_step=100,  # of a run that goes on
        current_epoch=1,
        max_epochs=4,
        accumulate_grad_batches=1,
        progress_bar_metrics={"loss": 2.5},
    )
    module = SimpleNamespace(progress=Progress(100, 400, 4, 16))
    shown.on_fit_start(trainer, module)
    clock[0] += 900  # for the first step
    shown.on_train_batch_end(trainer, module, None, None, 0)
    clock[0] += 50  # for 100 steps
    trainer.global_step, trainer.current_epoch = 200, 2
    probing.rows = [
        {"encoder": "trained", "scores": {"knn/top1": 30.0, "miou/a": 9.0, "miou/mean": 9.0}}
    ]
    shown.on_train_batch_end(trainer, module, None, None, 0)
    # 200 steps of 0.5 s, and two measurements of 40 s
    text = "epoch 3/4, step 200/400, 0:03:00 left without 2 measurements, 32 images/s, 20 % waiting"
    text += " for data, loss 2.500, knn/top1 30.0, miou/a 9.0"
    for callback in (probing, validation):
        with callback.timed("trained"):
            clock[0] += 10  # two more of 10 s each; the untrained one counts no longer
    shown.on_train_batch_end(trainer, module, None, None, 0)
    shown.on_train_end(trainer, module)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert lines == [text, text.replace("3:00 left without 2 measurements", "2:20 left")]


def test_a_terminal_shows_a_run_and_its_measurement_and_keeps_the_last_line(monkeypatch, capsys):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    monkeypatch.setattr("vitlab.progress.console", lambda stderr: console)
    shown, probing = RunProgress(), OnlineProbes()
    trainer = stub(global_step=0, accumulate_grad_batches=1, progress_bar_metrics={})
    module = SimpleNamespace(progress=Progress(0, 2, 1, 16))
    shown.on_fit_start(trainer, module)
    with probing.timed("untrained"):
        DISPLAY.bars.refresh()
    assert "before the first step" in screen.getvalue()
    assert "untrained encoder, 0:00:00" in screen.getvalue()
    for trainer.global_step in (0, 1, 2):
        shown.on_train_batch_end(trainer, module, None, None, 0)
    shown.on_train_end(trainer, module)
    assert not DISPLAY.working
    assert "epoch 1/1, step 2/2" in capsys.readouterr().err.splitlines()[-1]
