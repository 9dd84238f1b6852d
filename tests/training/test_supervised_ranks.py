"""Two processes with gloo train and score with labels as one: classes, calibration, prompts."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import weights

from vitlab.cli import main
from vitlab.encoders import ViT, save

CONFIGS = Path(__file__).parents[2] / "configs"
SCORES = ("val/top1", "val/loss", "val/ece")
NANO = {"size": "nano", "patch_size": 8, "img_size": 64, "drop_path": 0.0}
# without what is drawn for a micro-batch
STILL = ("--model.objective.random_erasing", '{"prob": 0}')
UNMIXED = ("--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}')
Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def odd(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images in class folders; 11 to score, which two ranks cannot share evenly."""
    root = tmp_path_factory.mktemp("odd")
    for number, folder in enumerate(sorted((drawn / "imagenet/train").iterdir())):
        images = sorted(folder.iterdir())
        scored = 2 if number == 0 else 1
        for split, part in (("train", images[scored:]), ("val", images[:scored])):
            place = root / split / folder.name
            place.mkdir(parents=True)
            for image in part:
                shutil.copy(image, place)
    return root


@pytest.fixture
def fit(odd: Path, tmp_path: Path) -> Fit:
    """Run `vitlab fit` on one rank in this process, or on two new ones; returns its folder."""

    def run(config: str, name: str, *options: str, ranks: int = 1) -> Path:
        folder = tmp_path / name
        words = [
            *("fit", "--config", str(CONFIGS / f"{config}.yaml"), "--run-dir", str(folder)),
            *("--data.root", str(odd), "--data.num_workers", "0", "--data.global_batch_size", "14"),
            *("--data.transform.size", "64", "--validation.num_workers", "0"),
            *("--validation.every_n_epochs", "1"),
            *("--probing.every_n_epochs", "0", "--probing.baselines", "false"),
            *("--probing.dense", "{}"),
            *("--probing.size", "64", "--probing.dense_size", "64", "--probing.num_workers", "0"),
            *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
            *("--trainer.accelerator", "cpu", "--trainer.devices", str(ranks)),
            *("--trainer.max_epochs", "2", "--model.optimizer.warmup_epochs", "0"),
            *("--model.optimizer.lr", "4e-4", "--model.optimizer.lr_schedule.base_batch_size", "0"),
            *options,
        ]
        if ranks == 1:
            main(words)
            return folder
        command = [sys.executable, "-m", "vitlab", *words, "--trainer.strategy", "ddp"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder

    return run


def assert_alike(one: Path, two: Path) -> None:
    """The same weights and scores, but for the order of sums."""
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), atol=2e-4), name
    first, second = (json.loads((run / "measurements.json").read_text()) for run in (one, two))
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        for score in SCORES:
            assert a["scores"][score] == pytest.approx(b["scores"][score], abs=5e-3), score


@pytest.mark.slow
def test_supervised_and_calibrated_runs_on_two_ranks_are_those_of_one(fit: Fit):
    encoder = (
        "--model.objective.encoder",
        json.dumps({"class_path": "ViT", "init_args": NANO}),
        "--data.repeats",
        "2",
    )
    plain = (*encoder, *STILL, *UNMIXED, "--model.optimizer.lr_schedule.cooldown_epochs", "0")
    base = fit("supervised_deit_s", "one", *plain)
    assert_alike(base, fit("supervised_deit_s", "two", *plain, ranks=2))

    both = (
        *("--model.objective.classifier.path", str(base / "last.ckpt")),
        *("--model.objective.tokens.weight", "10"),
        *("--model.objective.dimensions.allow_unlearned", "true"),
    )
    calibrated = fit("calibrate_dimensions", "one calibrated", *both)
    assert_alike(calibrated, fit("calibrate_dimensions", "two calibrated", *both, ranks=2))


@pytest.mark.slow
def test_prompts_on_two_ranks_are_those_of_one(fit: Fit, tmp_path: Path):
    torch.manual_seed(0)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    backbone = "--model.objective.encoder.backbone"
    options = (
        *(f"{backbone}.path", str(tmp_path / "backbone")),
        *(f"{backbone}.family", "auto", f"{backbone}.which", ""),
        *("--data.transform.resize_size", "64"),
        # entries that are drawn, or dropped, are so for a micro-batch
        *("--model.objective.encoder.prompts.dropout", "0"),
        *("--model.objective.matching.random_fraction", "0"),
        *UNMIXED,
    )
    one = fit("prompts_tcpa", "one", *options)
    assert_alike(one, fit("prompts_tcpa", "two", *options, ranks=2))
