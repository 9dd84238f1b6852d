"""Two processes with gloo train and score with labels as one: classes, calibration, prompts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import UNPROBED, read, run_fit, run_ranks, weights

from vitlab.encoders import ViT, save

NANO = {"size": "nano", "patch_size": 8, "img_size": 64, "drop_path": 0.0}
# without what is drawn for a micro-batch
UNMIXED = ("--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}')
COMMON = (
    *("--data.global_batch_size", "14", "--data.transform.size", "64"),
    *("--validation.every_n_epochs", "1", *UNPROBED),
    *("--probing.size", "64", "--probing.dense_size", "64"),
    *("--model.optimizer.warmup_epochs", "0", "--model.optimizer.lr", "4e-4"),
    *("--model.optimizer.lr_schedule.base_batch_size", "0"),
)


@pytest.fixture(scope="module")
def odd(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images in class folders; 11 to score, which two ranks cannot share evenly."""
    root = tmp_path_factory.mktemp("odd")
    for number, folder in enumerate(sorted((drawn / "imagenet/train").iterdir())):
        images = sorted(folder.iterdir())
        scored = 2 if number == 0 else 1
        for split, part in (("train", images[scored:]), ("val", images[:scored])):
            place = root / "imagenet" / split / folder.name
            place.mkdir(parents=True)
            for image in part:
                shutil.copy(image, place)
    return root


def run_both(odd: Path, folder: Path, config: str, *options: str) -> Path:
    """Compare weights and scores of one rank and of two, but for the order of sums."""
    one = run_fit(folder / "one", odd, [config], *COMMON, *options)
    two = run_ranks(folder / "two", odd, [config], *COMMON, *options)
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), atol=2e-4), name
    first, second = (read(run / "measurements.json") for run in (one, two))
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        for score in ("val/top1", "val/loss", "val/ece"):
            assert a["scores"][score] == pytest.approx(b["scores"][score], abs=5e-3), score
    return one


@pytest.mark.slow
def test_supervised_and_calibrated_runs_on_two_ranks_are_those_of_one(odd: Path, tmp_path: Path):
    encoder = json.dumps({"class_path": "ViT", "init_args": NANO})
    still = ("--model.objective.random_erasing", '{"prob": 0}')
    more = ("--data.repeats", "2", "--model.optimizer.lr_schedule.cooldown_epochs", "0", *still)
    given = ("--model.objective.encoder", encoder, *more, *UNMIXED)
    base = run_both(odd, tmp_path / "plain", "supervised_deit_s", *given)
    start = ("--model.objective.classifier.path", str(base / "last.ckpt"))
    start += ("--model.objective.tokens.weight", "10")
    start += ("--model.objective.dimensions.allow_unlearned", "true")
    run_both(odd, tmp_path / "calibrated", "calibrate_dimensions", *start)


@pytest.mark.slow
def test_prompts_on_two_ranks_are_those_of_one(odd: Path, tmp_path: Path):
    torch.manual_seed(0)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    backbone = "--model.objective.encoder.backbone"
    options = (
        *(f"{backbone}.path", str(tmp_path / "backbone")),
        *(f"{backbone}.family", "auto", f"{backbone}.which", ""),
        *("--data.transform.resize_size", "64"),
        # entries that are drawn, or dropped, are so for a micro-batch
        *("--model.objective.encoder.prompts.dropout", "0"),
        *("--model.objective.matching.random_fraction", "0", *UNMIXED),
    )
    run_both(odd, tmp_path, "prompts_tcpa", *options)
