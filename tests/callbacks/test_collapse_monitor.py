"""The watchdog says once what goes wrong, leaves training as it is, and can end the run."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from runs import UNPROBED, curves

from vitlab.callbacks.collapse_checks import Diagnosis
from vitlab.callbacks.collapse_monitor import CollapseMonitor
from vitlab.callbacks.diagnosis_log import FILE, drop_after, last
from vitlab.encoders import ViT
from vitlab.objectives import DINO, Classification, PromptTuning
from vitlab.objectives.mixup import Mixup
from vitlab.objectives.prompt_tuning import KeyMatching

Fit = Callable[..., Path]
QUICK = (*UNPROBED, "--model.objective.encoder.patch_size", "16")
LONG = ("--trainer.max_epochs", "4", "--data.global_batch_size", "4")  # 40 steps
ILL = Diagnosis("ill", "something is wrong")


def settled(pattern: str) -> str:
    """Return where a watch over well (.) and ill (x) looks speaks up (!)."""
    watching = CollapseMonitor()
    said = (watching.confirm(ILL if look == "x" else None) for look in pattern)
    return "".join("!" if found else "-" for found in said)


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ("..........", "----------"),
        ("xx........", "----------"),
        ("x.x.x.....", "----!-----"),
        ("xxxxxxxxxx", "--!-------"),  # once
        ("xxx...xx..", "--!-------"),  # still the same episode
        ("xxx.....xxx", "--!-------!"),  # another one
    ],
)
def test_an_episode_is_said_once_and_noise_not_at_all(looks, said):
    assert settled(looks) == said


def test_a_resumed_run_does_not_say_it_again():
    first, second = CollapseMonitor(), CollapseMonitor()
    assert [first.confirm(ILL) for _ in range(3)] == [None, None, ILL]
    second.load_state_dict(first.state_dict())
    assert [second.confirm(ILL) for _ in range(5)] == [None] * 5


def test_a_resumed_run_has_the_gradients_since_the_last_look():
    first, second = CollapseMonitor(), CollapseMonitor()
    first.norms.extend([torch.tensor(0.3), torch.tensor(2.0)])
    first.center_errors.append(torch.tensor(0.4))
    first.losses.append(torch.tensor(2.3))
    first.largest = 0.03
    second.load_state_dict(first.state_dict())
    assert second.norms == first.norms
    assert second.center_errors == first.center_errors
    assert (second.losses, second.largest) == (first.losses, 0.03)


def test_a_warning_that_a_full_disk_cuts_short_is_not_there(tmp_path, monkeypatch):
    """Else a run could not go on: its status quotes the last one."""
    trainer = Mock(Trainer, global_step=9, loggers=[], default_root_dir=tmp_path)
    watching = CollapseMonitor()
    watching.report(trainer, ILL)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            watching.report(trainer, ILL)
    assert last(tmp_path) == "step 9: something is wrong"


def test_what_a_lost_attempt_said_is_forgotten_when_the_run_goes_on(tmp_path):
    drop_after(tmp_path, 10)  # nothing was said
    assert not (tmp_path / FILE).exists()
    rows = [json.dumps({"step": step, "name": "ill", "sentence": "x"}) for step in (30, 50, 70)]
    (tmp_path / FILE).write_text("\n".join(rows) + "\n")
    drop_after(tmp_path, 50)
    assert (tmp_path / FILE).read_text() == "\n".join(rows[:2]) + "\n"


def test_a_number_of_steps_is_not_negative():
    with pytest.raises(ValueError, match=r"collapse_monitor.every_n_steps -1 is negative"):
        CollapseMonitor(every_n_steps=-1)


def test_a_run_that_does_not_look_cannot_be_ended_by_what_it_sees():
    with pytest.raises(
        ValueError,
        match=r"collapse_monitor.stop true would be ignored.*collapse_monitor.every_n_steps to 10",
    ):
        CollapseMonitor(every_n_steps=0, stop=True)


@pytest.mark.parametrize("mixing", [Mixup(), Mixup(prob=0.5), Mixup(0.0, 0.0)])
def test_chance_of_sigmoids_is_the_entropy_of_how_often_a_class_is_present(mixing):
    objective = Classification(
        ViT("nano", 8, 16),
        5,
        "binary_cross_entropy",
        label_smoothing=0.0,
        mixup=mixing,
        ema_decay=0.0,
    )
    torch.manual_seed(0)
    images = torch.zeros(4, 3, 16, 16)
    targets = [mixing(images, torch.randint(5, (4,)), 5, 0.0)[1] for _ in range(1500)]
    share = (torch.cat(targets) > 0).double().mean(0)
    least = torch.special.entr(share) + torch.special.entr(1 - share)
    assert objective.constant_loss == pytest.approx(float(least.mean()), rel=0.01)


@pytest.mark.slow
def test_the_loss_of_the_newest_steps_is_that_of_steps_behind_the_warm_up(fit: Fit, monkeypatch):
    """With four steps to remember, of a run of two epochs of ten steps, the first a warm-up."""
    monkeypatch.setattr("vitlab.callbacks.collapse_monitor.RECENT", 4)
    losses, means = [], []

    def draw(self, trainer, signs):
        losses.append(signs.loss)
        means.append(signs.mean)

    monkeypatch.setattr(CollapseMonitor, "log_stats", draw)
    fit(*QUICK, "--data.global_batch_size", "4", "--collapse_monitor.every_n_steps", "1")
    assert means[:13] == [None] * 13
    expected = [sum(losses[end - 4 : end]) / 4 for end in range(14, 21)]
    assert means[13:] == pytest.approx(expected, rel=1e-6)


def test_the_keys_of_prompts_are_no_part_of_what_is_learned():
    prompting = Mock(spec=PromptTuning, matching=KeyMatching(weight=0.5))
    logs = {"loss": torch.tensor(3.0), "prompts/mismatch": torch.tensor(2.0)}
    assert PromptTuning.task_loss(prompting, logs) == 2.0
    assert PromptTuning.task_loss(prompting, {"loss": torch.tensor(3.0)}) == 3.0


def test_a_center_that_stays_is_named_and_the_weights_are_left_alone(fit: Fit, caplog):
    options = (*QUICK, *LONG, "--model.objective.center_momentum", "1.0")
    watched = fit(*options, "--collapse_monitor.every_n_steps", "4", name="watched")
    (row,) = [json.loads(line) for line in (watched / FILE).read_text().splitlines()]
    assert row["name"] == "no centering"
    assert row["step"] == 40  # the third look behind step 30
    assert "center_momentum" in row["sentence"]
    assert f"vitlab: step 40: {row['sentence']}" in caplog.text
    assert row["sentence"] in json.loads((watched / "status.json").read_text())["warning"]
    assert {"collapse_monitor/update", "collapse_monitor/feature_rank"} <= curves(watched).keys()

    alone = fit(*options, "--collapse_monitor.every_n_steps", "0", name="alone")
    assert not (alone / FILE).exists()
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (watched, alone)
    )
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
def test_a_center_that_is_far_from_a_batch_now_and_then_follows(fit: Fit, monkeypatch):
    """With two images, the mean logits of a batch jump; the center is near most of them."""
    seen = []
    monkeypatch.setattr(CollapseMonitor, "confirm", lambda self, found: seen.append(found))
    before = DINO.after_step

    def after(self, progress):
        before(self, progress)
        self.center_error = torch.tensor(0.4 if progress.step % 3 else 1.1)

    monkeypatch.setattr(DINO, "after_step", after)
    fit(*QUICK, *LONG, "--collapse_monitor.every_n_steps", "1")
    assert len(seen) == 40
    assert not any(found and found.name == "no centering" for found in seen)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", ["1.0", "0.99"])  # 0.99 at 512 images is 0.9999 at 4
def test_a_teacher_that_never_moves_is_named(fit: Fit, momentum):
    folder = fit(
        *QUICK,
        *LONG,
        "--collapse_monitor.every_n_steps",
        "4",
        "--model.objective.momentum",
        momentum,
    )
    (row,) = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert row["name"] == "teacher lags"
    assert "all 40 steps together take 0% of its weights" in row["sentence"]


@pytest.mark.slow
def test_a_run_may_end_when_it_goes_wrong(fit: Fit, tmp_path, capsys):
    hot = ("--model.objective.teacher_temperature.start", "0.2")
    hot += ("--model.objective.teacher_temperature.end", "0.2")
    with pytest.raises(SystemExit) as end:
        fit(
            *QUICK,
            *LONG,
            *hot,
            "--collapse_monitor.every_n_steps",
            "1",
            "--collapse_monitor.stop",
            "true",
        )
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert (
        "the teacher is not sharpened: its temperature 0.2 is not below the student's 0.1" in said
    )
    assert "Stopped at step 32, as --collapse_monitor.stop asks" in said
    assert "--ckpt_path last" in said
    last = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert last["global_step"] == 30  # of the last epoch's end


@pytest.mark.slow
def test_a_run_in_good_health_is_let_be(fit: Fit):
    """200 steps, of which 40 warm up."""
    options = ("--trainer.max_epochs", "20", "--data.global_batch_size", "4")
    options += ("--model.optimizer.warmup_epochs", "4", "--seed_everything", "1")
    folder = fit(*QUICK, *options, "--collapse_monitor.every_n_steps", "5")
    assert not (folder / FILE).exists()
