"""Encoders of configs with overlays, as `vitlab cost` and `untrained:` take them."""

from pathlib import Path

import pytest
from refusals import refused

from vitlab.data import ImageNet
from vitlab.data.check import recognize
from vitlab.training.encoder_config import encoder_from_config, group_overlays


@pytest.mark.parametrize(
    ("names", "arms"),
    [
        (["dino", "demo"], ["dino-demo"]),
        (
            ["dino", "dino_locat", "demo", "hardware/gpu_1"],
            ["dino-demo-gpu_1", "dino_locat-demo-gpu_1"],
        ),
        (["dino", "demo", "dino_locat"], ["dino-demo", "dino_locat"]),
    ],
)
def test_an_overlay_belongs_to_all_configs_before_it(names, arms):
    found = group_overlays(names)
    assert ["-".join(path.stem for path in arm) for arm in found] == arms


def test_the_encoder_is_that_of_fit():
    encoder = encoder_from_config(group_overlays(["dino_entmax", "demo", "hardware/gpu_1"])[0])
    kept = {name: encoder.config[name] for name in ("size", "patch_size", "normalizer")}
    assert kept == {"size": "nano", "patch_size": 16, "normalizer": "entmax15"}


def test_a_home_is_found_and_an_overlay_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text(
        "model: {objective: {init_args: {encoder: vitlab.encoders.Pixels}}}"
    )
    assert group_overlays(["~/own.yaml"]) == [[tmp_path / "own.yaml"]]
    (tmp_path / "own.yaml").write_text("trainer: {max_epochs: 1}")
    with refused(str(tmp_path / "own.yaml")):
        group_overlays(["~/own.yaml"])


def test_a_home_is_the_root_of_a_dataset(drawn, monkeypatch):
    monkeypatch.setenv("HOME", str(drawn))
    found = recognize(Path("~/imagenet"))
    assert found.root == ImageNet("~/imagenet").root == drawn / "imagenet"
