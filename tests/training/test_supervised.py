"""Supervised runs, in miniature: identities, recipes against their table, scores."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from runs import (
    CONFIGS,
    UNPROBED,
    assert_same_bits,
    curves,
    interrupted,
    read,
    run_fit,
    weights,
    words,
)

from vitlab.data import CenterCrop, ImageNet, normalize
from vitlab.data.decode import read_image
from vitlab.encoders import load_pretrained, save
from vitlab.encoders.vit import DropPath
from vitlab.objectives import Classification
from vitlab.run.module import Pretraining
from vitlab.training.cli import FitCLI

RECIPES = sorted(path.stem for path in CONFIGS.glob("supervised_*.yaml"))
Train = Callable[..., Path]
ALL = ("--model.objective.encoder.drop_path", "0.3", "--probing.every_n_epochs", "1")
ALL += ("--validation.every_n_epochs", "1", "--validation.crop", "0.9", "--data.repeats", "2")
ALL += ("--trainer.log_every_n_steps", "1", "--probing.pictures", "0")


@pytest.fixture
def train(drawn: Path, tmp_path: Path) -> Train:
    """Run a supervised `vitlab fit` in this process on the drawn data; returns its folder."""

    def run(*options: str, config: str = "supervised_deit_s", name: str = "run") -> Path:
        configs = [config, "demo_supervised"]
        return run_fit(tmp_path / name, drawn, configs, "--data.repeats", "2", *options)

    return run


@pytest.fixture(scope="module")
def scored(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is probed and validated after each epoch."""
    folder = tmp_path_factory.mktemp("runs") / "scored"
    return run_fit(folder, drawn, ["supervised_deit_s", "demo_supervised"], *ALL)


def test_a_resumed_run_is_bit_identical(scored: Path, train: Train, capsys):
    """With mixup, CutMix, erasing, RandAugment, repeats, drop path and the average all at work."""
    resumed = interrupted(lambda *more: train(*ALL, *more))
    assert "--ckpt_path last" in capsys.readouterr().err
    assert_same_bits(scored, resumed)
    assert read(scored / "measurements.json") == read(resumed / "measurements.json")


@pytest.mark.slow
def test_lamb_resumes_and_scores_leave_training_untouched(scored: Path, train: Train):
    assert_same_bits(scored, train(*ALL, "--validation.every_n_epochs", "0", *UNPROBED))

    def run(*more: str, name: str = "stopped") -> Path:
        lamb = ("--model.optimizer.name", "lamb", *UNPROBED)
        return train(*lamb, *more, config="supervised_deit3_s", name=name)

    assert_same_bits(run(name="calm"), interrupted(run))


@pytest.mark.slow
def test_micro_batches_take_the_steps_of_the_whole_batch(train: Train):
    options = ["--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}', *UNPROBED]
    options += ["--model.objective.random_erasing", '{"prob": 0}']
    whole = weights(train(*options, name="whole"))
    parts = weights(train(*options, "--data.micro_batch_size", "10", name="parts"))
    for name, tensor in whole.items():
        assert torch.allclose(tensor, parts[name], atol=2e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("config", RECIPES)
def test_every_recipe_trains_and_is_scored(train: Train, config: str):
    last = read(train(*UNPROBED, config=config) / "results.json")[-1]
    assert {"val/top1", "val/top5", "val/loss", "val/ece"} <= last.keys()
    assert 0 <= last["val/top1"] <= last["val/top5"] <= 100


def test_the_scores_are_those_of_the_checkpoint_beside_those_of_the_probes(scored, drawn):
    rows = read(scored / "measurements.json")
    assert [row["encoder"] for row in rows] == ["pixels", "untrained", "trained", "trained"]
    for row in rows[2:]:
        assert {"knn/top1", "miou/voc2012", "val/top1", "ema/top1"} <= row["scores"].keys()
    assert {"val/top1", "val/ece", "ema/loss", "optimizer/learning_rate"} <= curves(scored).keys()
    assert (scored / "best_top1.ckpt").exists()
    model = Pretraining.load_from_checkpoint(scored / "last.ckpt", weights_only=True)
    data = ImageNet(str(drawn / "imagenet"))
    samples, view = data.samples("val"), CenterCrop(64, 0.9)
    paths = [drawn / "imagenet" / samples.image(index) for index in range(len(samples))]
    images = torch.stack([view(read_image(path))[0][0] for path in paths])
    with torch.no_grad():
        logits = model.objective.eval().model(normalize(images))
    labels = torch.from_numpy(samples.labels)
    correct = (logits.argmax(-1) == labels).double().mean().item()
    assert rows[-1]["scores"]["val/top1"] == pytest.approx(100 * correct, abs=1e-4)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert rows[-1]["scores"]["val/loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_a_run_starts_from_weights_and_its_checkpoint_needs_them_no_more(
    scored: Path, train: Train, tmp_path: Path
):
    file = tmp_path / "encoder"
    save(load_pretrained(scored / "last.ckpt", which="model").encoder, file)
    encoder = {"class_path": "Pretrained", "init_args": {"path": str(file)}}
    start = ("--model.objective.encoder", json.dumps(encoder), "--model.optimizer.lr", "0")
    start += ("--model.optimizer.min_lr", "0", "--model.optimizer.lr_schedule.warmup_lr", "0")
    second = train(*UNPROBED, *start, name="second")
    before, after = weights(scored), weights(second)
    for name, tensor in after.items():
        if ".encoder." in name and name.startswith("objective.model"):
            assert torch.equal(tensor, before[name]), name
    shutil.rmtree(file)
    model = Pretraining.load_from_checkpoint(second / "last.ckpt", weights_only=True)
    assert isinstance(model.objective, Classification)
    assert load_pretrained(second / "last.ckpt", which="model").report.full


# the table of docs/supervised.md
COLUMNS = (
    *("epochs", "kind", "peak", "batch", "shape", "warmup", "start", "final", "cooldown", "decay"),
    *("clip", "drop", "loss", "smoothing", "augment", "jitter", "erasing", "repeats", "mixup"),
    *("cutmix", "average", "scale", "crop"),
)
RANDAUGMENT, BINARY = "rand-m9-mstd0.5-inc1", "binary_cross_entropy"
TABLE = {
    "supervised_deit_s": (
        *(300, "adamw", 1e-3, 1024, "timm", 5, 1e-6, 1e-5, 10, 0.05, 0.0, (0.0, 0.1)),
        *("cross_entropy", 0.1, RANDAUGMENT, 0.0, 0.25, 3, 0.8, 1.0, 0.99996, 0.0, 0.875),
    ),
    "supervised_deit3_s": (
        *(800, "lamb", 4e-3, 2048, "timm", 5, 1e-6, 1e-5, 10, 0.05, 0.0, (0.05, 0.05)),
        *(BINARY, 0.0, "3a", 0.3, 0.0, 3, 0.8, 1.0, 0.99996, 1e-4, 1.0),
    ),
    "supervised_big_vision_s": (
        *(90, "adamw", 1e-3, 1024, "cosine", 8, 0.0, 0.0, 0, 1e-4, 1.0, (0.0, 0.0)),
        *("cross_entropy", 0.0, "rand-m10-n2-p1", 0.0, 0.0, 1, 0.2, 0.0, 0.0, 0.0, 0.875),
    ),
    "supervised_locat": (
        *(300, "adamw", 1e-3, 1024, "linear", 20, 1e-7, 1e-7, 0, 0.05, 5.0, (0.0, 0.2)),
        *("cross_entropy", 0.1, RANDAUGMENT, 0.0, 0.25, 1, 0.8, 1.0, 0.0, 0.0, 0.9),
    ),
}


@pytest.mark.parametrize("config", TABLE)
def test_a_recipe_resolves_to_the_values_of_the_table(config, drawn, tmp_path):
    full = words(tmp_path / "run", drawn, [config])
    for option in ("--data.global_batch_size", "--trainer.max_epochs"):
        del full[full.index(option) : full.index(option) + 2]  # those of a small run
    place = full.index("--model.optimizer.warmup_epochs")
    command = FitCLI(full[1:place])
    optimizer, objective = command.model.settings, command.model.objective
    data, validation = command.datamodule, command.config_init.validation
    drops = [m.drop_prob for m in objective.encoder.modules() if isinstance(m, DropPath)]
    schedule, views, mixup = optimizer.lr_schedule, data.transform, objective.mixup
    found = (
        *(command.trainer.max_epochs, optimizer.name),
        *(pytest.approx(optimizer.peak_lr(data.global_batch_size)), data.global_batch_size),
        *(schedule.shape, optimizer.warmup_epochs, schedule.warmup_lr, optimizer.min_lr),
        *(schedule.cooldown_epochs, optimizer.weight_decay, optimizer.clip_grad_norm),
        *((drops[0], drops[-1]), objective.kind, objective.label_smoothing, views.auto_augment),
        *(views.color_jitter, objective.random_erasing.prob, data.repeats),
        *(mixup.mixup_alpha, mixup.cutmix_alpha, objective.ema_decay),
        *(objective.encoder.config["layer_scale"], validation.crop),
    )
    pairs = zip(COLUMNS, found, TABLE[config], strict=True)
    assert {name: (ours, table) for name, ours, table in pairs if ours != table} == {}
    assert optimizer.final_weight_decay == optimizer.weight_decay
    assert optimizer.betas == (0.9, 0.999)
    assert not optimizer.param_groups.decay_tokens
    assert (mixup.prob, mixup.switch_prob, views.size) == (1.0, 0.5, 224)
    assert views.area[0] == (0.05 if "big_vision" in config else 0.08)
    assert optimizer.clip_mode == "global" or not optimizer.clip_grad_norm
    assert optimizer.param_groups.independent_decay == ("big_vision" in config)
    assert (objective.encoder.config["size"], objective.encoder.patch_size) == ("S", 16)


def test_arms_differ_in_one_option_of_the_encoder_only():
    def settings(name: str) -> dict:
        return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())

    def options(arm: dict) -> dict:
        return arm["model"]["objective"]["init_args"]["encoder"]["init_args"]

    plain = settings("supervised_deit_s")
    for name in ("entmax", "cls_specialized", "locat"):
        arm = settings(f"supervised_deit_s_{name}")
        (added,) = [key for key in options(arm) if key not in options(plain)]
        assert options(arm).pop(added) == options(settings(f"dino_{name}"))[added]
        assert arm == plain
