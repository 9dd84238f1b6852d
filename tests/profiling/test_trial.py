"""A trial of a run: what is measured is the run's, what follows is arithmetic, nothing is left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlab.cli import main
from vitlab.encoders import ViT, save
from vitlab.profiling.forecast import (
    GIB,
    SCALAR,
    RunFacts,
    Timing,
    TrialResult,
    duration,
    forecast,
)
from vitlab.profiling.forecast import verdict as outcome
from vitlab.profiling.remedies import remedies
from vitlab.profiling.step_profiler import StepProfiler
from vitlab.profiling.throughput import throughput

CONFIGS = Path(__file__).parents[2] / "configs"
OFF = ("--probing.every_n_epochs", "0", "--probing.baselines", "false", "--probing.dense", "{}")
# 32 images a step: 1 s of which 0.05 s waiting; 20 steps an epoch, 10 epochs
FACTS = RunFacts(
    device="cpu",
    world_size=1,
    local_devices=1,
    global_batch_size=32,
    micro_batch_size=32,
    accumulate_grad_batches=1,
    steps_per_epoch=20,
    epochs=10,
    num_workers=4,
    cores=8,
    precision="bf16-mixed",
    supports_bf16=True,
    slow_attention="",
    memory=16 * GIB,
    weights=GIB,
    per_image=GIB // 16,
    kept_checkpoints=3,
    scalars=1000,
    pictures=5000,
    free_disk=10 * GIB,
    probings=4,
    validations=0,
)
TRIAL = TrialResult(
    step=Timing((1.0, 1.2, 0.9)),
    parts={"data": Timing((0.05, 0.05, 0.05)), "forward": Timing((0.95, 1.15, 0.85))},
    loading=400.0,
    peak=3 * GIB,
    checkpoint=GIB // 8,
    probe_seconds=10.0,
    validation_seconds=0.0,
)
DINO = "dino_entmax.yaml+demo.yaml"
SMALL = ("--model.objective.head.out_dim", "64")


@pytest.fixture
def plan(drawn, tmp_path, monkeypatch):
    """Run `vitlab plan` of a small config in this process; returns what it writes."""
    monkeypatch.chdir(tmp_path)

    def run(config, *options, steps=2):
        file = tmp_path / "numbers.json"
        before = {path for path in tmp_path.rglob("*") if path != file}
        demo = [part for part in config.split("+") for part in ("--config", CONFIGS / part)]
        main(
            [
                *("plan", "--steps", str(steps), "--out", str(file), *map(str, demo)),
                *("--synthetic.root", "", "--data.root", str(drawn / "imagenet")),
                *(
                    "--data.num_workers",
                    "0",
                    "--data.global_batch_size",
                    "20",
                    "--probing.num_workers",
                    "0",
                ),
                *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
                *("--trainer.precision", "32-true", "--trainer.max_epochs", "3"),
                *("--model.optimizer.warmup_epochs", "1", *options),
            ]
        )
        assert {path for path in tmp_path.rglob("*") if path != file} == before, "left behind"
        return json.loads(file.read_text())

    return run


def dense(drawn):
    return ("--probing.dense.voc2012.root", str(drawn / "VOCdevkit"), "--probing.images", "10")


def test_parts_sum_to_the_step_and_none_is_negative(plan, drawn, capsys):
    found = plan(DINO, *SMALL, *dense(drawn), "--data.micro_batch_size", "10", steps=3)
    trial = found["trial"]
    steps = trial["step"]["seconds"]
    parts = trial["parts"]
    assert list(parts) == ["data", "copy", "forward", "backward", "optimizer", "other"]
    for index, seconds in enumerate(steps):
        shares = [part["seconds"][index] for part in parts.values()]
        assert min(shares) >= 0
        assert sum(shares) == pytest.approx(seconds, rel=1e-9)
    assert len(steps) == 3
    assert found["facts"]["accumulate_grad_batches"] == 2
    assert min(parts["forward"]["seconds"] + parts["backward"]["seconds"]) > 0
    assert min(trial["loading"], trial["peak"], trial["probe_seconds"]) > 0
    assert found["verdict"].startswith("The run fits; it is bound by ")
    printed = capsys.readouterr().out
    assert "3 steps, spread" in printed
    assert "20 = 10 images x 1 devices x 2 micro-batches" in printed
    assert found["remedies"][0].split(":")[0] in printed


@pytest.mark.slow
def test_disk_is_what_the_run_takes(plan, fit):
    """Checkpoint by checkpoint, and curve by curve."""
    options = (*OFF, *SMALL, "--trainer.log_every_n_steps", "1", "--data.global_batch_size", "10")
    facts, trial = (plan(DINO, *options)[name] for name in ("facts", "trial"))
    folder = fit(*options, "--trainer.max_epochs", "3", config="dino_entmax")
    # the run's also holds its measurements
    written = (folder / "last.ckpt").stat().st_size
    assert trial["checkpoint"] == pytest.approx(written, rel=0.02)
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("probe/", "epoch"))]
    points = sum(len(events.Scalars(tag)) for tag in tags)
    assert facts["scalars"] == pytest.approx(points, rel=0.2)
    curves = next(folder.glob("events.out.tfevents*")).stat().st_size
    assert 0.7 < facts["scalars"] * SCALAR / curves < 1.5


@pytest.mark.parametrize("config", ["supervised_deit3_s"])
def test_supervised_configs_can_be_tried(plan, config):
    small = (
        "--data.global_batch_size",
        "10",
        "--data.repeats",
        "2",
        "--validation.num_workers",
        "0",
    )
    found = plan(f"{config}.yaml+demo_supervised.yaml", *OFF, *small)
    assert found["trial"]["validation_seconds"] > 0
    assert found["facts"]["validations"] == 1
    assert found["facts"]["kept_checkpoints"] == 3


def test_another_arm_can_be_tried(plan):
    found = plan(
        "dino_locat.yaml+demo.yaml", *OFF, *SMALL, "--data.global_batch_size", "4", steps=1
    )
    assert found["trial"]["parts"]["forward"]["seconds"][0] > 0


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(5)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    return str(tmp_path / "backbone")


def test_prompts_can_be_tried(plan, backbone):
    start = "--model.objective.encoder.backbone"
    weights = (f"{start}.path", backbone, f"{start}.family", "auto", f"{start}.which", "")
    found = plan("prompts_tcpa.yaml+demo_prompts.yaml", *weights, "--validation.num_workers", "0")
    assert found["trial"]["checkpoint"] > 0


@pytest.mark.slow
def test_calibration_can_be_tried_with_what_it_does_before_its_first_step(plan, drawn, tmp_path):
    folder = tmp_path / "start"
    main(
        [
            *("fit", "--config", str(CONFIGS / "supervised_deit_s.yaml"), "--run-dir", str(folder)),
            *("--config", str(CONFIGS / "demo_supervised.yaml"), "--synthetic.root", ""),
            *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0", *OFF),
            *("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0"),
            *("--validation.num_workers", "0", "--trainer.enable_progress_bar", "false"),
            *("--trainer.precision", "32-true"),
        ]
    )
    for stage in ("tokens", "dimensions"):
        more = ()
        if stage == "dimensions":
            more = ("--model.objective.dimensions.allow_unlearned", "true")
            more += ("--model.objective.classifier.allow_uncalibrated", "true")
        found = plan(
            f"calibrate_{stage}.yaml+demo_calibrate.yaml",
            *("--model.objective.classifier.path", str(folder / "last.ckpt"), *more),
            *("--validation.num_workers", "0", "--model.optimizer.warmup_epochs", "0"),
        )
        assert found["trial"]["parts"]["backward"]["seconds"][0] > 0


def test_a_run_shorter_than_the_trial_is_measured_as_it_is(plan):
    found = plan(
        DINO, *OFF, *SMALL, "--data.global_batch_size", "40", "--trainer.max_epochs", "1", steps=5
    )
    assert len(found["trial"]["step"]["seconds"]) == 1
    assert found["facts"]["steps_per_epoch"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trainer.max_steps", "5"), "schedules count in epochs"),
        (("--trainer.gradient_clip_val", "1"), "model.optimizer.clip_grad_norm"),
        (("--data.root", "nowhere"), "there is no folder nowhere"),
        (("--data.global_batch_size", "4000"), "do not fill one batch"),
        (("--steps", "0"), "give at least 1 step"),
        (("--world-size", "3"), "does not divide among 3 devices"),
        (("--out", "."), "is a folder"),
        (("--trainer.devices", "0"), "devices"),
        (("--ckpt_path", "last"), "there is no checkpoint"),
        (
            ("--model.optimizer.lr", "1e38", "--model.optimizer.warmup_epochs", "0"),
            "the run would stop",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(plan, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        plan(DINO, *OFF, *SMALL, *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_a_run_is_refused_as_by_fit(plan, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.json").write_text("[]")
    with pytest.raises(SystemExit):
        plan(DINO, *OFF, "--run-dir", "run")
    assert "already holds a finished run" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_forecast_by_hand():
    found = forecast(TRIAL, FACTS)
    assert found.step_seconds == 1.0
    assert found.images_per_second == 32
    assert found.epoch_hours == pytest.approx(20 / 3600)
    assert found.hours == pytest.approx((200 + 40) / 3600)
    assert found.device_hours == found.hours
    assert found.probing == pytest.approx(40 / 240)
    assert found.disk == 4 * GIB // 8 + 64 * 1000 + 5000
    assert found.hours_on(4) == pytest.approx(found.hours / 4)
    assert found.bound == "compute"
    # 15.2 GiB, of which weights take 1; an image takes 2 / 32 GiB
    assert found.largest == 32
    assert TRIAL.step.spread == pytest.approx(0.3)


def test_devices_share_a_batch_but_not_their_hours():
    """Eight devices at 32 images a second each."""
    many = replace(FACTS, world_size=8, local_devices=8, global_batch_size=256)
    found = forecast(TRIAL, many)
    assert found.images_per_second == 256
    assert found.device_hours == pytest.approx(8 * found.hours)
    assert found.hours_on(16) == pytest.approx(found.hours / 2)


def test_what_was_loaded_in_advance_does_not_hide_slow_loaders():
    """A few steps never wait, as the loaders were ahead; alone they give half of what is used."""
    found = forecast(replace(TRIAL, loading=16.0), FACTS)
    assert found.bound == "data"
    assert found.step_seconds == 2.0
    # in the main process, loading is part of the step already
    assert forecast(replace(TRIAL, loading=16.0), replace(FACTS, num_workers=0)).step_seconds == 1.0


def test_micro_batches_that_fit_divide_the_share_of_a_device():
    tight = replace(
        FACTS, memory=2 * GIB, micro_batch_size=4, accumulate_grad_batches=6, global_batch_size=24
    )
    found = forecast(replace(TRIAL, peak=GIB + GIB // 4), tight)
    # 1.9 GiB less 1 for weights, an image takes 1/16: 14 fit, of 24 divides 12
    assert found.largest == 12
    assert forecast(TRIAL, replace(FACTS, memory=GIB)).largest == 0


def first(trial=TRIAL, facts=FACTS):
    found = forecast(trial, facts)
    advice = remedies(trial, facts, found)
    return advice[0] if advice else ""


WAITS = {**TRIAL.parts, "data": Timing((0.5, 0.5, 0.5))}


@pytest.mark.parametrize(
    ("trial", "facts", "expected"),
    [
        ({}, {}, "devices: 2 would take about 2 min"),
        ({"peak": 16 * GIB}, {"per_image": 0}, "--data.micro_batch_size 16"),
        ({"peak": 16 * GIB}, {"memory": GIB}, "not even one image fits"),
        ({}, {"free_disk": GIB // 4}, "disk: the run needs up to 512.1 MiB and 256.0 MiB are free"),
        ({"loading": 20.0}, {}, "could use 34; set --data.num_workers 8"),
        ({"loading": 20.0}, {"num_workers": 8}, "store the images smaller"),
        ({"parts": WAITS}, {"num_workers": 0}, "between the steps"),
        ({}, {"num_workers": 16}, "1 x 16 processes share 8 cores; --data.num_workers 8"),
        ({}, {"slow_attention": "no compiler"}, "attention: no compiler"),
        ({}, {"precision": "32-true"}, "bf16-mixed"),
        ({}, {"micro_batch_size": 8, "accumulate_grad_batches": 4}, "--data.micro_batch_size 32"),
        ({"probe_seconds": 100.0}, {}, "probes take 67% of the run"),
    ],
)
def test_the_first_remedy_is_for_what_presses_most(trial, facts, expected):
    assert expected in first(replace(TRIAL, **trial), replace(FACTS, **facts))


def test_a_remedy_never_changes_the_recipe():
    for loading in (1.0, 1e6):
        for peak in (GIB, 64 * GIB):
            trial = replace(TRIAL, loading=loading, peak=peak)
            advice = " ".join(remedies(trial, FACTS, forecast(trial, FACTS)))
            assert "crops" not in advice
            assert "global_batch_size" not in advice
            assert "max_epochs" not in advice


def test_the_verdict_says_what_does_not_fit():
    assert "does not fit into memory" in outcome(
        FACTS, forecast(replace(TRIAL, peak=16 * GIB), FACTS)
    )
    full = replace(FACTS, free_disk=0)
    assert "disk is too small" in outcome(full, forecast(TRIAL, full))


def test_a_part_within_another_is_not_its_time(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 15.0])
    monkeypatch.setattr("vitlab.profiling.step_profiler.time.perf_counter", lambda: next(clock))
    parts = StepProfiler(torch.device("cpu"))
    parts.begin_step()
    parts.start("[LightningModule]Pretraining.optimizer_step")
    parts.start("[Strategy]SingleDeviceStrategy.training_step")
    parts.stop("[Strategy]SingleDeviceStrategy.training_step")
    parts.stop("[LightningModule]Pretraining.optimizer_step")
    parts.end_step()
    (found,) = parts.seconds()
    assert found["forward"] == 3
    assert found["optimizer"] == 2 + 4
    assert found["other"] == 1 + 5
    assert sum(found.values()) == 15


def test_a_pace_leaves_out_the_start_and_goes_round(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vitlab.profiling.throughput.time.perf_counter", lambda: now[0])
    used = []

    def use(batch):
        now[0] += 100 if len(used) < 3 else batch  # the start is slow
        used.append(batch)
        return 10

    # three processes: one round does not count, two do; each batch takes its number of seconds
    assert throughput([1, 2], 3, use) == pytest.approx(60 / (2 + 1 + 2 + 1 + 2 + 1))
    assert used == [1, 2, 1, 2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "36 s"), (0.5, "30 min"), (12.34, "12.3 h"), (240.0, "10.0 days")],
)
def test_durations_are_in_the_unit_that_suits_them(hours, text):
    assert duration(hours) == text
