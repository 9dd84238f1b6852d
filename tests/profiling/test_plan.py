"""`vitlab plan`: the measurements are those of the run, and nothing is left behind."""

import json

import pytest
import torch
from runs import UNPROBED, curves, refusal, run_fit

from vitlab.encoders import PromptedViT, Prompts, ViT, save
from vitlab.objectives import DINO, Classification, PromptTuning
from vitlab.profiling.forecast import SCALAR
from vitlab.profiling.step_profiler import StepProfiler
from vitlab.profiling.trial import throughput
from vitlab.training.plan import estimate_memory, kept_for_backward, trained_encoder

SMALL = ("--model.objective.head.out_dim", "64")


@pytest.fixture
def plan(drawn, tmp_path, monkeypatch):
    """Run `vitlab plan` of a small config in this process; returns the JSON file."""
    monkeypatch.chdir(tmp_path)

    def run(config, *options, steps=2):
        file = tmp_path / "numbers.json"
        before = {path for path in tmp_path.rglob("*") if path != file}
        more = ("--steps", str(steps), "--out", str(file), *options)
        run_fit("", drawn, config.split("+"), "--trainer.max_epochs", "3", *more, verb="plan")
        assert {path for path in tmp_path.rglob("*") if path != file} == before, "left behind"
        return json.loads(file.read_text())

    return run


def test_parts_sum_to_the_step_and_none_is_negative(plan, capsys):
    micro = ("--probing.images", "10", "--data.micro_batch_size", "10")
    found = plan("dino_entmax+demo", *SMALL, *micro, steps=3)
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
    assert "loaders alone" in printed
    assert "20 = 10 images x 1 devices x 2 micro-batches" in printed
    assert found["remedies"][0].split(":")[0] in printed


@pytest.mark.slow
def test_disk_is_that_of_the_run(plan, fit):
    """Checkpoint by checkpoint, and curve by curve."""
    options = (*UNPROBED, *SMALL, "--trainer.log_every_n_steps", "1")
    options += ("--data.global_batch_size", "10")
    facts, trial = (plan("dino_entmax+demo", *options)[name] for name in ("facts", "trial"))
    folder = fit(*options, "--trainer.max_epochs", "3", config="dino_entmax")
    # the run's also holds its measurements
    assert trial["checkpoint"] == pytest.approx((folder / "last.ckpt").stat().st_size, rel=0.02)
    found = curves(folder)
    points = sum(len(found[tag]) for tag in found if not tag.startswith(("probe/", "epoch")))
    assert facts["scalars"] == pytest.approx(points, rel=0.2)
    size = next(folder.glob("*/events.out.tfevents*")).stat().st_size
    assert 0.7 < facts["scalars"] * SCALAR / size < 1.5


def test_a_supervised_run_shorter_than_the_trial_has_validations_and_a_best_checkpoint(plan):
    options = ("--data.global_batch_size", "40", "--data.repeats", "2", "--trainer.max_epochs", "1")
    found = plan("supervised_deit3_s+demo_supervised", *UNPROBED, *options, steps=5)
    trial, facts = found["trial"], found["facts"]
    assert (len(trial["step"]["seconds"]), facts["steps_per_epoch"]) == (1, 1)
    assert trial["validation_seconds"] > 0
    assert (facts["validations"], facts["kept_checkpoints"]) == (1, 3)


@pytest.mark.slow
def test_other_objectives_can_be_tried(plan, drawn, tmp_path):
    """LocAtViT, prompts, and calibration with its pass over the data before the first step."""
    found = plan("dino_locat+demo", *UNPROBED, *SMALL, "--data.global_batch_size", "4", steps=1)
    assert found["trial"]["parts"]["forward"]["seconds"][0] > 0
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    start = "--model.objective.encoder.backbone"
    weights = (f"{start}.path", str(tmp_path / "backbone"), f"{start}.family", "auto")
    found = plan("prompts_tcpa+demo_prompts", *weights, f"{start}.which", "")
    assert found["trial"]["checkpoint"] > 0
    supervised = ["supervised_deit_s", "demo_supervised"]
    folder = run_fit(tmp_path / "start", drawn, supervised, "--data.repeats", "2", *UNPROBED)
    second = "--model.objective.dimensions.allow_unlearned true "
    second += "--model.objective.classifier.allow_uncalibrated true"
    for stage, more in (("tokens", []), ("dimensions", second.split())):
        path = ("--model.objective.classifier.path", str(folder / "last.ckpt"))
        found = plan(f"calibrate_{stage}+demo_calibrate", *path, *more)
        assert found["trial"]["parts"]["backward"]["seconds"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--trainer.gradient_clip_val 1", "model.optimizer.clip"),
        ("--data.root nowhere", "vitlab plan: there is no folder nowhere"),
        ("--steps 0", "--steps 0 is too small"),
        ("--world-size 3", "does not divide among 3 devices"),
        ("--out .", "is a folder"),
        ("--trainer.devices 0", "devices"),
        ("--model.optimizer.lr 1e38 --model.optimizer.warmup_epochs 0", "would stop"),
    ],
)
def test_runs_that_cannot_work_are_refused_with_a_reason(plan, options, message, capsys):
    refusal(plan, "dino_entmax+demo", *UNPROBED, *SMALL, *options.split())
    assert message in capsys.readouterr().err


def test_a_nested_part_is_not_counted_twice(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr("vitlab.profiling.step_profiler.time.perf_counter", lambda: next(clock))
    profiler = StepProfiler(torch.device("cpu"))
    profiler.mark()
    for name in ("start", "stop"):
        outer, inner = "[LightningModule]Pretraining.optimizer_step", "[Strategy]X.training_step"
        for action in (outer, inner) if name == "start" else (inner, outer):
            getattr(profiler, name)(action)
            getattr(profiler, name)("[Callback]Other.backward")
    profiler.end_step()
    (found,) = profiler.seconds().to_dict("records")
    times = {name: seconds for name, seconds in found.items() if seconds}
    assert times == {"forward": 3, "optimizer": 2 + 4, "other": 1 + 5}


def test_throughput_leaves_out_the_start_and_repeats_the_batches(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vitlab.profiling.trial.time.perf_counter", lambda: now[0])
    used = []

    def use(batch):
        now[0] += 100 if len(used) < 3 else batch  # the start is slow
        used.append(batch)
        return 10

    # three processes: one round does not count, two do; each batch takes its number of seconds
    assert throughput([1, 2], 3, use) == pytest.approx(60 / (2 + 1 + 2 + 1 + 2 + 1))
    assert used == [1, 2, 1, 2, 1, 2, 1, 2, 1]


def test_the_memory_foreseen_is_that_of_what_is_trained():
    """Frozen parts keep nothing until backward; of DINO the student is measured."""

    def kept(objective) -> int:
        return kept_for_backward(trained_encoder(objective), 32, mixed=False)

    torch.manual_seed(0)
    vit, state = ViT("nano", 8, 32), torch.get_rng_state()
    whole, dino = kept(Classification(vit, 3)), DINO(ViT("nano", 8, 32))
    assert kept(PromptTuning(PromptedViT(ViT("nano", 8, 32)), 3)) == 0
    prompted = PromptedViT(ViT("nano", 8, 32), Prompts(shared=2, dropout=0.0))
    assert 0 < kept(PromptTuning(prompted, 3)) < whole
    assert trained_encoder(dino) is dino.student.encoder
    assert kept(dino) == whole
    torch.set_rng_state(state)
    assert kept_for_backward(vit, 32, mixed=True) != whole
    assert torch.equal(torch.get_rng_state(), state)
    classifier = Classification(vit, 3)
    classifier.model.head.requires_grad_(False)
    weights, per_image = estimate_memory(classifier, [(2, 32)], mixed=False)
    size, head = sum(p.numel() for p in vit.parameters()), 3 * 128 + 3
    assert weights == 16 * size + 4 * head + 4 * (size + head)  # trained, frozen, moving average
    assert per_image == 2 * (whole + 4 * 3 * 32**2 + 3 * 4 * 4)
    assert all(p.requires_grad for p in vit.parameters())
