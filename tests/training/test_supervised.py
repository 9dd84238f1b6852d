"""Supervised runs, in miniature: identities, recipes against their table, scores, bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from runs import CONFIGS, UNPROBED, assert_same_bits, curves, interrupt, run_fit, weights
from timm.layers import DropPath

from vitlab.data import CenterCrop, ImageNet, normalize
from vitlab.data.decode import read_image
from vitlab.encoders import load_pretrained, save
from vitlab.objectives import Classification
from vitlab.training import Pretraining
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


def read(path: Path):
    return json.loads(path.read_text())


def test_a_resumed_run_is_bit_identical(scored: Path, train: Train, monkeypatch, capsys):
    """With mixup, CutMix, erasing, RandAugment, repeats, drop path and the average all at work."""
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(SystemExit) as stopped:
            train(*ALL)
    assert stopped.value.code == 1
    assert "--ckpt_path last" in capsys.readouterr().err
    resumed = train(*ALL, "--ckpt_path", "last")
    assert_same_bits(scored, resumed)
    assert read(scored / "measurements.json") == read(resumed / "measurements.json")


@pytest.mark.slow
def test_scores_leave_training_untouched(scored: Path, train: Train):
    assert_same_bits(scored, train(*ALL, "--validation.every_n_epochs", "0", *UNPROBED))


@pytest.mark.slow
def test_micro_batches_take_the_steps_of_the_whole_batch(train: Train):
    options = ["--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}', *UNPROBED]
    options += ["--model.objective.random_erasing", '{"prob": 0}']
    whole = weights(train(*options, name="whole"))
    parts = weights(train(*options, "--data.micro_batch_size", "10", name="parts"))
    for name, tensor in whole.items():
        assert torch.allclose(tensor, parts[name], atol=2e-4), name


@pytest.mark.slow
def test_lamb_resumes_too(train: Train, monkeypatch):
    options = ("--model.optimizer.name", "lamb", *UNPROBED)
    calm = train(*options, config="supervised_deit3_s", name="calm")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(SystemExit):
            train(*options, config="supervised_deit3_s", name="stopped")
    resumed = train(*options, "--ckpt_path", "last", config="supervised_deit3_s", name="stopped")
    assert_same_bits(calm, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("config", RECIPES)
def test_every_recipe_trains_and_is_scored(train: Train, config: str):
    last = read(train(*UNPROBED, config=config) / "results.json")[-1]
    assert {"val/top1", "val/top5", "val/loss", "val/ece"} <= last.keys()
    assert 0 <= last["val/top1"] <= last["val/top5"] <= 100


def test_scores_and_probes_share_a_row_and_curves(scored: Path):
    rows = read(scored / "measurements.json")
    assert [row["encoder"] for row in rows] == ["pixels", "untrained", "trained", "trained"]
    for row in rows[2:]:
        assert {"knn/top1", "miou/voc2012", "val/top1", "ema/top1"} <= row["scores"].keys()
    assert {"val/top1", "val/ece", "ema/loss", "optimizer/learning_rate"} <= curves(scored).keys()
    assert (scored / "best_top1.ckpt").exists()


def test_the_scores_are_those_of_the_checkpoint(scored: Path, drawn: Path):
    model = Pretraining.load_from_checkpoint(scored / "last.ckpt", weights_only=True)
    data = ImageNet(str(drawn / "imagenet"))
    samples, view = data.samples("val"), CenterCrop(64, 0.9)
    paths = [drawn / "imagenet" / samples.image(index) for index in range(len(samples))]
    images = torch.stack([view(read_image(path))[0][0] for path in paths])
    with torch.no_grad():
        logits = model.objective.eval().model(normalize(images))
    labels = torch.from_numpy(samples.labels)
    scores = read(scored / "measurements.json")[-1]["scores"]
    correct = (logits.argmax(-1) == labels).double().mean().item()
    assert scores["val/top1"] == pytest.approx(100 * correct, abs=1e-4)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert scores["val/loss"] == pytest.approx(loss, rel=1e-4)


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


def build(config: str, drawn: Path, tmp_path: Path) -> FitCLI:
    return FitCLI(
        [
            *("--config", str(CONFIGS / f"{config}.yaml"), "--run-dir", str(tmp_path / "run")),
            *("--data.root", str(drawn / "imagenet"), "--trainer.precision", "32-true"),
            *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
        ]
    )


# the table of docs/supervised.md
TABLE = {
    "supervised_deit_s": {
        "epochs": 300, "kind": "adamw", "peak": 1e-3, "batch": 1024, "shape": "timm",
        "warmup": 5, "start": 1e-6, "final": 1e-5, "cooldown": 10, "decay": 0.05, "clip": 0.0,
        "drop": (0.0, 0.1), "loss": "cross_entropy", "smoothing": 0.1,
        "augment": "rand-m9-mstd0.5-inc1", "jitter": 0.0, "erasing": 0.25, "repeats": 3,
        "mixup": 0.8, "cutmix": 1.0, "average": 0.99996, "scale": 0.0, "size": 224, "crop": 0.875,
    },
    "supervised_deit3_s": {
        "epochs": 800, "kind": "lamb", "peak": 4e-3, "batch": 2048, "shape": "timm",
        "warmup": 5, "start": 1e-6, "final": 1e-5, "cooldown": 10, "decay": 0.05, "clip": 0.0,
        "drop": (0.05, 0.05), "loss": "binary_cross_entropy", "smoothing": 0.0,
        "augment": "3a", "jitter": 0.3, "erasing": 0.0, "repeats": 3,
        "mixup": 0.8, "cutmix": 1.0, "average": 0.99996, "scale": 1e-4, "size": 224, "crop": 1.0,
    },
    "supervised_big_vision_s": {
        "epochs": 90, "kind": "adamw", "peak": 1e-3, "batch": 1024, "shape": "cosine",
        "warmup": 8, "start": 0.0, "final": 0.0, "cooldown": 0, "decay": 1e-4, "clip": 1.0,
        "drop": (0.0, 0.0), "loss": "cross_entropy", "smoothing": 0.0,
        "augment": "rand-m10-n2-p1", "jitter": 0.0, "erasing": 0.0, "repeats": 1,
        "mixup": 0.2, "cutmix": 0.0, "average": 0.0, "scale": 0.0, "size": 224, "crop": 0.875,
    },
    "supervised_locat": {
        "epochs": 300, "kind": "adamw", "peak": 1e-3, "batch": 1024, "shape": "linear",
        "warmup": 20, "start": 1e-7, "final": 1e-7, "cooldown": 0, "decay": 0.05, "clip": 5.0,
        "drop": (0.0, 0.2), "loss": "cross_entropy", "smoothing": 0.1,
        "augment": "rand-m9-mstd0.5-inc1", "jitter": 0.0, "erasing": 0.25, "repeats": 1,
        "mixup": 0.8, "cutmix": 1.0, "average": 0.0, "scale": 0.0, "size": 224, "crop": 0.9,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", TABLE)
def test_a_recipe_resolves_to_the_values_of_the_table(config, drawn, tmp_path):
    command = build(config, drawn, tmp_path)
    optimizer, objective = command.model.settings, command.model.objective
    data, validation = command.datamodule, command.config_init.validation
    drops = [m.drop_prob for m in objective.encoder.modules() if isinstance(m, DropPath)]
    found = {
        "epochs": command.trainer.max_epochs,
        "kind": optimizer.name,
        "peak": pytest.approx(optimizer.peak_lr(data.global_batch_size)),
        "batch": data.global_batch_size,
        "shape": optimizer.lr_schedule.shape,
        "warmup": optimizer.warmup_epochs,
        "start": optimizer.lr_schedule.warmup_lr,
        "final": optimizer.min_lr,
        "cooldown": optimizer.lr_schedule.cooldown_epochs,
        "decay": optimizer.weight_decay,
        "clip": optimizer.clip_grad_norm,
        "drop": (drops[0], drops[-1]),
        "loss": objective.kind,
        "smoothing": objective.label_smoothing,
        "augment": data.transform.auto_augment,
        "jitter": data.transform.color_jitter.brightness,
        "erasing": objective.random_erasing.prob,
        "repeats": data.repeats,
        "mixup": objective.mixup.mixup_alpha,
        "cutmix": objective.mixup.cutmix_alpha,
        "average": objective.ema_decay,
        "scale": objective.encoder.config["layer_scale"],
        "size": data.transform.size,
        "crop": validation.crop,
    }
    assert found == TABLE[config]
    assert optimizer.final_weight_decay == optimizer.weight_decay
    assert optimizer.betas == (0.9, 0.999)
    assert not optimizer.param_groups.decay_tokens
    assert (objective.mixup.prob, objective.mixup.switch_prob) == (1.0, 0.5)
    assert data.transform.area[0] == (0.05 if "big_vision" in config else 0.08)
    assert optimizer.clip_mode == "global" or not optimizer.clip_grad_norm
    assert optimizer.param_groups.independent_decay == ("big_vision" in config)
    assert objective.encoder.config["size"] == "S"
    assert objective.encoder.patch_size == 16


def test_arms_differ_in_one_option_of_the_encoder_only():
    def settings(name: str) -> dict:
        return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())

    def options(arm: dict) -> dict:
        return arm["model"]["objective"]["init_args"]["encoder"]["init_args"]

    plain = settings("supervised_deit_s")
    for name in ("entmax", "cls_specialized", "locat"):
        arm = settings(f"supervised_deit_s_{name}")
        added = [key for key in options(arm) if key not in options(plain)]
        assert len(added) == 1
        assert options(arm).pop(added[0]) == options(settings(f"dino_{name}"))[added[0]]
        assert arm == plain


BAD = [
    (("--data.global_batch_size", "15"), "15 images cannot be mixed"),
    (("--model.objective.loss", "binary_cross_entropy"), "all classes would be present"),
    (("--data.transform.color_jitter", "0.4"), "timm ignores the jitter"),
    (("--data.repeats", "0"), "repeats 0 is too small"),
    (("--data.transform", "MultiCrop", "--data.transform.size", "64"), "needs one crop"),
    (("--model.objective.num_classes", "7"), "num_classes"),
    (("--validation.every_n_epochs", "-1"), "validation.every_n_epochs -1 is too small"),
    (("--validation.crop", "2"), "no part of the image"),
    (("--validation.size", "50"), "use validation.size 48 or 56"),
    (("--model.optimizer.lr_schedule.warmup_lr", "-1"), "lr_schedule.warmup_lr -1"),
    (("--model.optimizer.name", "adamb"), "adamb"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_named_before_training(train: Train, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as refused:
        train(*options)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_without_labels_are_refused(train: Train, drawn: Path, capsys):
    with pytest.raises(SystemExit) as refused:
        train(
            "--data",
            "VOC2012",
            "--data.root",
            str(drawn / "VOCdevkit"),
            "--data.global_batch_size",
            "6",
        )
    assert refused.value.code == 2
    assert "VOC2012 has no image labels" in capsys.readouterr().err


def test_a_missing_folder_is_all_that_is_said(train: Train, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as refused:
        train("--data.root", str(tmp_path / "nowhere"))
    assert refused.value.code == 2
    reason = capsys.readouterr().err
    assert f"vitlab: there is no folder {tmp_path / 'nowhere'}; set its root" in reason
    assert "compute_fn" not in reason
