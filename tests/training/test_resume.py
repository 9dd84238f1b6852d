"""A run that is stopped at every step ends with the bits of a calm one, and with its records."""

import os
import signal
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
import torch
from runs import curves, differences, interrupt, read, refusal, run_fit

from vitlab.callbacks.throughput import ThroughputMonitor

SIGNALS = cycle([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
STEPS = 4
Train = Callable[..., Path]


class Signalled(ThroughputMonitor):
    """Asks for a stop within every micro-batch, so that a run takes one step at a time."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        os.kill(os.getpid(), next(SIGNALS))


@pytest.fixture
def train(drawn: Path, tmp_path: Path) -> Train:
    """Run two epochs of two steps of two micro-batches, all of it measured and logged."""

    def run(config: str, overlay: str, *options: str, name: str) -> Path:
        every = ("--data.micro_batch_size", "10", "--probing.dense", "{}", "--ckpt_path", "auto")
        every += ("--probing.every_n_epochs", "1", "--trainer.log_every_n_steps", "1")
        every += ("--collapse_monitor.every_n_steps", "3")
        return run_fit(tmp_path / name, drawn, [config, overlay], *every, *options)

    return run


def stopped_at_every_step(train: Train, monkeypatch, capsys, *arguments: str) -> tuple[Path, Path]:
    """Return the folders of a calm run and of one stopped at each of its steps."""
    calm = train(*arguments, name="calm")
    with monkeypatch.context() as patch:
        interrupt(patch, Signalled)
        for step in range(1, STEPS + 1):
            refusal(partial(train, *arguments, name="stopped"), code=75)
            said = capsys.readouterr().err
            assert f"at step {step}; continue with --run-dir" in said, said
    return calm, train(*arguments, name="stopped")


def content(folder: Path, name: str = "last.ckpt") -> dict:
    return torch.load(folder / name, weights_only=True)


def assert_same_run(calm: Path, stopped: Path) -> None:
    """Compare weights, optimizer, averages, counters, measurements and curves to the bit."""
    for name in ("last.ckpt", "best.ckpt", "best_top1.ckpt"):
        assert (calm / name).exists() == (stopped / name).exists()
        if (calm / name).exists():
            assert not differences(content(calm, name), content(stopped, name))
    for name in ("measurements.json", "results.json"):
        assert read(calm / name) == read(stopped / name)
    ours, theirs = (
        {tag: points for tag, points in curves(folder).items() if not tag.startswith(TIMES)}
        for folder in (calm, stopped)
    )
    assert ours == theirs


TIMES = ("speed/", "probe/")  # curves that measure time
RECIPES = {
    "dino": ("dino_registers", "demo", "--model.objective.encoder.drop_path", "0.3"),
    # three of the four micro-batches of an epoch: its second step has one
    "limited": ("dino", "demo", "--trainer.limit_train_batches", "3"),
    "labels": (
        *("supervised_deit_s", "demo_supervised", "--data.repeats", "2"),
        *("--model.objective.encoder.drop_path", "0.3"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_stopped_at_every_step_is_the_calm_run(train: Train, monkeypatch, capsys, recipe):
    """DINO with its teacher and center; labels with mixup, CutMix, repeats and an average."""
    assert_same_run(*stopped_at_every_step(train, monkeypatch, capsys, *RECIPES[recipe]))


@pytest.mark.slow
def test_a_calibration_stopped_at_every_step_is_the_calm_one(train: Train, monkeypatch, capsys):
    """Its rules are found once, before the first step, and belong to its state."""
    plain = ("--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}')
    start = train("supervised_deit_s", "demo_supervised", *plain, name="start") / "last.ckpt"
    given = "--model.objective.classifier"
    options = (f"{given}.path", str(start), f"{given}.allow_uncalibrated", "true")
    options += ("--model.objective.dimensions.allow_unlearned", "true")
    calibration = ("calibrate_dimensions", "demo_calibrate", *options)
    calm, stopped = stopped_at_every_step(train, monkeypatch, capsys, *calibration)
    assert_same_run(calm, stopped)
    assert content(calm)["state_dict"]["objective.mask_images"].sum() > 0


@pytest.mark.slow
def test_a_checkpoint_by_the_clock_is_one_to_the_bit(train: Train, monkeypatch, capsys):
    """One between any two steps, and one before the measurements of each epoch."""
    recipe = RECIPES["dino"]
    calm = train(*recipe, name="calm")
    often = train(*recipe, "--checkpoint.minutes", "1e-9", name="often")
    assert_same_run(calm, often)
    # the attempt that went on from the one before the last measurements
    (often / "results.json").unlink()
    (often / "last.ckpt").write_bytes(b"cut short")
    resumed = train(*recipe, name="often")
    assert "going on from" in capsys.readouterr().err
    assert not differences(content(calm), content(resumed))
    assert read(calm / "measurements.json") == read(resumed / "measurements.json")
