"""The monitor reports once what goes wrong, leaves training as it is, and can end the run."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from refusals import refused
from runs import UNPROBED, assert_same_bits, curves

from vitlab.callbacks.collapse_checks import Diagnosis
from vitlab.callbacks.collapse_monitor import FILE, CollapseMonitor, read_diagnoses
from vitlab.encoders import ViT
from vitlab.objectives import DINO, Classification, PromptTuning
from vitlab.objectives.mixup import Mixup
from vitlab.objectives.prompt_tuning import KeyMatching

Fit = Callable[..., Path]
QUICK = (*UNPROBED, "--model.objective.encoder.patch_size", "16")
LONG = (*QUICK, "--trainer.max_epochs", "4", "--data.global_batch_size", "4")  # 40 steps
EVERY = "--collapse_monitor.every_n_steps"
ILL = Diagnosis("ill", "something is wrong")


def told(monitor: CollapseMonitor, pattern: str) -> str:
    """Return where a monitor reports (!) over checks that find nothing (.) or a problem (x)."""
    found = (monitor.confirm(ILL if check == "x" else None) for check in pattern)
    return "".join("!" if one else "-" for one in found)


@pytest.mark.parametrize(
    ("checks", "reports"),
    [
        ("..........", "----------"),
        ("xx........", "----------"),
        ("x.x.x.....", "----!-----"),
        ("xxxxxxxxxx", "--!-------"),  # once
        ("xxx...xx..", "--!-------"),  # still the same episode
        ("xxx.....xxx", "--!-------!"),  # another one
    ],
)
def test_an_episode_is_reported_once_and_noise_not_at_all(checks, reports):
    assert told(CollapseMonitor(), checks) == reports


def test_a_resumed_run_goes_on_with_the_numbers_and_reports_of_before():
    first, second = CollapseMonitor(), CollapseMonitor()
    assert told(first, "xxx") == "--!"
    first.norms.extend([torch.tensor(0.3), torch.tensor(2.0)])
    first.center_errors.append(torch.tensor(0.4))
    first.losses.append(torch.tensor(2.3))
    first.usual.append(2.5)
    first.largest, first.fastest, first.best_rank = 0.03, 0.02, 7.0
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.norms == first.norms
    assert told(second, "xxxxx") == "-----"


def test_diagnoses_are_written_whole_and_those_of_a_lost_attempt_dropped(tmp_path, monkeypatch):
    """Else a run could not go on: its status quotes the last one."""
    trainer = Mock(Trainer, loggers=[], default_root_dir=tmp_path)
    monitor, module = CollapseMonitor(), Mock(objective=torch.nn.Linear(2, 2))
    module.objective.distillation = lambda _: None
    for step in (30, 50, 70):
        trainer.global_step = step
        monitor.report(trainer, ILL)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            monitor.report(trainer, ILL)
    rows = read_diagnoses(tmp_path)
    assert rows[1:] == [
        {"step": step, "name": "ill", "sentence": ILL.sentence} for step in (50, 70)
    ]
    trainer.global_step = 50
    monitor.on_train_start(trainer, module)
    assert read_diagnoses(tmp_path) == rows[:2]


@pytest.mark.parametrize("wrong", [{"every_n_steps": -1}, {"stop": True, "every_n_steps": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with refused(f"collapse_monitor.{next(iter(wrong))}"):
        CollapseMonitor(**wrong)


@pytest.mark.parametrize("mixing", [Mixup(), Mixup(prob=0.5), Mixup(0.0, 0.0)])
def test_chance_of_sigmoids_is_the_entropy_of_how_often_a_class_is_present(mixing):
    options = {"label_smoothing": 0.0, "mixup": mixing, "ema_decay": 0.0}
    objective = Classification(ViT("nano", 8, 16), 5, "binary_cross_entropy", **options)
    torch.manual_seed(0)
    images = torch.zeros(4, 3, 16, 16)
    targets = [mixing(images, torch.randint(5, (4,)), 5, 0.0)[1] for _ in range(1500)]
    share = (torch.cat(targets) > 0).double().mean(0)
    least = torch.special.entr(share) + torch.special.entr(1 - share)
    assert objective.constant_loss == pytest.approx(float(least.mean()), rel=0.01)


def test_the_keys_of_prompts_are_no_part_of_what_is_learned():
    prompting = Mock(spec=PromptTuning, matching=KeyMatching(weight=0.5))
    logs = {"loss": torch.tensor(3.0), "prompts/mismatch": torch.tensor(2.0)}
    assert PromptTuning.task_loss(prompting, logs) == 2.0
    assert PromptTuning.task_loss(prompting, {"loss": torch.tensor(3.0)}) == 3.0


def test_a_center_that_stays_is_named_and_the_weights_are_left_alone(fit: Fit, capsys):
    still = ("--model.objective.centering", "mean", "--model.objective.center_momentum", "1.0")
    options = (*LONG, *still)
    watched = fit(*options, EVERY, "4", name="watched")
    (row,) = read_diagnoses(watched)
    assert (row["name"], row["step"]) == ("no centering", 40)  # the third check behind step 30
    text = f"step 40: {row['sentence']}"
    assert f"vitlab: {text}" in capsys.readouterr().out
    assert json.loads((watched / "status.json").read_text())["warning"] == text
    assert {"collapse_monitor/update", "collapse_monitor/feature_rank"} <= curves(watched).keys()
    alone = fit(*options, EVERY, "0", name="alone")
    assert not (alone / FILE).exists()
    assert_same_bits(watched, alone)


@pytest.mark.slow
def test_the_loss_of_the_newest_steps_is_that_of_steps_behind_the_warm_up(fit: Fit, monkeypatch):
    """With four steps to remember, of a run of two epochs of ten steps, the first a warm-up."""
    monkeypatch.setattr("vitlab.callbacks.collapse_monitor.RECENT", 4)
    seen = []
    monkeypatch.setattr(CollapseMonitor, "log_stats", lambda self, trainer, one: seen.append(one))
    fit(*QUICK, "--data.global_batch_size", "4", EVERY, "1")
    means, losses = [one.mean for one in seen], [one.loss for one in seen]
    assert means[:13] == [None] * 13
    expected = [sum(losses[end - 4 : end]) / 4 for end in range(14, 21)]
    assert means[13:] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_center_that_is_far_from_a_batch_now_and_then_follows(fit: Fit, monkeypatch):
    """With two images, the mean logits of a batch jump; the center is near most of them."""
    seen, before = [], DINO.after_step
    monkeypatch.setattr(CollapseMonitor, "confirm", lambda self, found: seen.append(found))

    def after(self, progress):
        before(self, progress)
        self.center_error = torch.tensor(0.4 if progress.step % 3 else 1.1)

    monkeypatch.setattr(DINO, "after_step", after)
    fit(*LONG, EVERY, "1")
    assert len(seen) == 40
    assert not any(found and found.name == "no centering" for found in seen)


@pytest.mark.slow
def test_a_teacher_that_hardly_moves_is_named(fit: Fit):
    """0.99 at 512 images is 0.9999 at 4."""
    (row,) = read_diagnoses(fit(*LONG, EVERY, "4", "--model.objective.momentum", "0.99"))
    assert row["name"] == "teacher lags"
    assert "all 40 steps together take 0% of its weights" in row["sentence"]


@pytest.mark.slow
def test_a_run_may_end_when_it_goes_wrong(fit: Fit, tmp_path, capsys):
    hot = ("--model.objective.teacher_temperature.start", "0.2")
    hot += ("--model.objective.teacher_temperature.end", "0.2")
    with pytest.raises(SystemExit) as end:
        fit(*LONG, *hot, EVERY, "1", "--collapse_monitor.stop", "true")
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "its temperature 0.2 is not below the student's 0.1" in said
    assert "Stopped at step 32, as --collapse_monitor.stop asks" in said
    assert "--ckpt_path last" in said
    last = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert last["global_step"] == 30  # of the last epoch's end


@pytest.mark.slow
def test_a_run_in_good_health_is_let_be(fit: Fit):
    """200 steps, of which 40 warm up."""
    options = ("--trainer.max_epochs", "20", "--data.global_batch_size", "4", EVERY, "5")
    options += ("--model.optimizer.warmup_epochs", "4", "--seed_everything", "1")
    assert not (fit(*QUICK, *options) / FILE).exists()
