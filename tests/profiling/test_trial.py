"""`vitlab plan`: the measurements are those of the run, and nothing is left behind."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlab.cli import main
from vitlab.encoders import ViT, save
from vitlab.profiling.forecast import SCALAR
from vitlab.profiling.step_profiler import StepProfiler
from vitlab.profiling.throughput import throughput

CONFIGS = Path(__file__).parents[2] / "configs"
OFF = ["--probing.every_n_epochs", "0", "--probing.baselines", "false", "--probing.dense", "{}"]
DINO = "dino_entmax+demo"
SMALL = ("--model.objective.head.out_dim", "64")


@pytest.fixture
def plan(drawn, tmp_path, monkeypatch):
    """Run `vitlab plan` of a small config in this process; returns the JSON file."""
    monkeypatch.chdir(tmp_path)

    def run(config, *options, steps=2):
        file = tmp_path / "numbers.json"
        before = {path for path in tmp_path.rglob("*") if path != file}
        configs = [CONFIGS / f"{name}.yaml" for name in config.split("+")]
        settings = "--synthetic.root= --data.num_workers 0 --data.global_batch_size 20 "
        settings += "--probing.num_workers 0 --trainer.accelerator cpu --trainer.devices 1 "
        settings += "--trainer.precision 32-true --trainer.max_epochs 3 "
        settings += "--model.optimizer.warmup_epochs 1"
        main(
            [
                *("plan", "--steps", str(steps), "--out", str(file)),
                *(word for path in configs for word in ("--config", str(path))),
                *("--data.root", str(drawn / "imagenet"), *settings.split(), *options),
            ]
        )
        assert {path for path in tmp_path.rglob("*") if path != file} == before, "left behind"
        return json.loads(file.read_text())

    return run


def test_parts_sum_to_the_step_and_none_is_negative(plan, drawn, capsys):
    dense = ("--probing.dense.voc2012.root", str(drawn / "VOCdevkit"), "--probing.images", "10")
    found = plan(DINO, *SMALL, *dense, "--data.micro_batch_size", "10", steps=3)
    trial = found["trial"]
    steps, parts = trial["step"]["seconds"], trial["parts"]
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
def test_disk_is_that_of_the_run(plan, fit):
    """Checkpoint by checkpoint, and curve by curve."""
    options = (*OFF, *SMALL, "--trainer.log_every_n_steps", "1", "--data.global_batch_size", "10")
    facts, trial = (plan(DINO, *options)[name] for name in ("facts", "trial"))
    folder = fit(*options, "--trainer.max_epochs", "3", config="dino_entmax")
    # the run's also holds its measurements
    assert trial["checkpoint"] == pytest.approx((folder / "last.ckpt").stat().st_size, rel=0.02)
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("probe/", "epoch"))]
    points = sum(len(events.Scalars(tag)) for tag in tags)
    assert facts["scalars"] == pytest.approx(points, rel=0.2)
    curves = next(folder.glob("events.out.tfevents*")).stat().st_size
    assert 0.7 < facts["scalars"] * SCALAR / curves < 1.5


def test_a_supervised_run_has_validations_and_a_best_checkpoint(plan):
    small = [
        "--data.global_batch_size",
        "10",
        "--data.repeats",
        "2",
        "--validation.num_workers",
        "0",
    ]
    found = plan("supervised_deit3_s+demo_supervised", *OFF, *small)
    assert found["trial"]["validation_seconds"] > 0
    assert found["facts"]["validations"] == 1
    assert found["facts"]["kept_checkpoints"] == 3


def test_a_run_shorter_than_the_trial_is_measured_as_it_is(plan):
    short = ["--data.global_batch_size", "40", "--trainer.max_epochs", "1"]
    found = plan(DINO, *OFF, *SMALL, *short, steps=5)
    assert len(found["trial"]["step"]["seconds"]) == 1
    assert found["facts"]["steps_per_epoch"] == 1


@pytest.mark.slow
def test_other_objectives_can_be_tried(plan, drawn, tmp_path):
    """LocAtViT, prompts, and calibration with its pass over the data before the first step."""
    found = plan("dino_locat+demo", *OFF, *SMALL, "--data.global_batch_size", "4", steps=1)
    assert found["trial"]["parts"]["forward"]["seconds"][0] > 0
    torch.manual_seed(5)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    start = "--model.objective.encoder.backbone"
    weights = (f"{start}.path", str(tmp_path / "backbone"), f"{start}.family", "auto")
    workers = ("--validation.num_workers", "0")
    found = plan("prompts_tcpa+demo_prompts", *weights, f"{start}.which", "", *workers)
    assert found["trial"]["checkpoint"] > 0
    folder = tmp_path / "start"
    main(
        [
            *("fit", "--config", str(CONFIGS / "supervised_deit_s.yaml"), "--run-dir", str(folder)),
            *("--config", str(CONFIGS / "demo_supervised.yaml"), "--synthetic.root", ""),
            *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0", *OFF, *workers),
            *("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0"),
            *("--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true"),
        ]
    )
    second = "--model.objective.dimensions.allow_unlearned true "
    second += "--model.objective.classifier.allow_uncalibrated true"
    for stage, more in (("tokens", []), ("dimensions", second.split())):
        found = plan(
            f"calibrate_{stage}+demo_calibrate",
            *("--model.objective.classifier.path", str(folder / "last.ckpt"), *more, *workers),
            *("--model.optimizer.warmup_epochs", "0"),
        )
        assert found["trial"]["parts"]["backward"]["seconds"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--trainer.gradient_clip_val 1", "model.optimizer.clip"),
        ("--data.root nowhere", "there is no folder nowhere"),
        ("--steps 0", "give at least 1 step"),
        ("--world-size 3", "does not divide among 3 devices"),
        ("--out .", "is a folder"),
        ("--trainer.devices 0", "devices"),
        ("--ckpt_path last", "there is no checkpoint"),
        ("--model.optimizer.lr 1e38 --model.optimizer.warmup_epochs 0", "would stop"),
    ],
)
def test_runs_that_cannot_work_are_refused_with_a_reason(plan, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        plan(DINO, *OFF, *SMALL, *options.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_nested_part_is_not_counted_twice(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 15.0])
    monkeypatch.setattr("vitlab.profiling.step_profiler.time.perf_counter", lambda: next(clock))
    profiler = StepProfiler(torch.device("cpu"))
    profiler.begin_step()
    profiler.start("[LightningModule]Pretraining.optimizer_step")
    profiler.start("[Strategy]SingleDeviceStrategy.training_step")
    profiler.stop("[Strategy]SingleDeviceStrategy.training_step")
    profiler.stop("[LightningModule]Pretraining.optimizer_step")
    profiler.end_step()
    (found,) = profiler.seconds()
    times = {name: seconds for name, seconds in found.items() if seconds}
    assert times == {"forward": 3, "optimizer": 2 + 4, "other": 1 + 5}


def test_throughput_leaves_out_the_start_and_repeats_the_batches(monkeypatch):
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
