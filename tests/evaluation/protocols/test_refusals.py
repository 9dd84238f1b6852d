"""What would give trained heads a number that means nothing: refused, or never chosen."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refused

from vitlab.data import Folder, ImageNet, SegmentationCrop, SingleCrop, VisionDataModule
from vitlab.encoders import Encoder, Pixels, ViT
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.protocols import DenseHeads, Hummingbird, ImageHeads, ImageKNN
from vitlab.evaluation.protocols.hummingbird import Quirks
from vitlab.evaluation.protocols.trained_heads import key_of_heads
from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.metrics import IoUAccumulator
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference

VOID = 2
Make = Callable[..., Folder]


def draw(root: Path, void: tuple[str, ...] = (), train: int = 4, val: int = 3) -> Folder:
    """Draw images of noise whose class is their brightness; some splits are all void."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.kron(generator.integers(2, size=(4, 6)), np.ones((8, 8))).astype(np.uint8)
            image = generator.integers(0, 120, (32, 48, 3)) + 120 * mask[..., None]
            cv2.imwrite(str(root / f"images/{split}/{split}{index}.png"), image.astype(np.uint8))
            mask[: 32 if split in void else 4] = VOID
            cv2.imwrite(str(root / f"masks/{split}/{split}{index}.png"), mask)
    names = {"classes": ["dark", "bright", "void"], "ignore_index": VOID}
    (root / "classes.json").write_text(json.dumps(names))
    return Folder(str(root), num_workers=0, max_unreadable=0)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name="set", **options: draw(tmp_path / name, **options)


def recipe(**changes) -> TrainingRecipe:
    return replace(TrainingRecipe(WarmupPoly(), lrs=(0.05,), batch_size=2, iterations=4), **changes)


def dense(**changes) -> DenseHeads:
    settings = {
        "transform": SegmentationCrop(32, 32, (1.0, 1.0), cat_max_ratio=1.0, photometric=False),
        "recipe": recipe(),
        "inference": SegmentationInference(short=32, window=32, stride=16),
        **changes,
    }
    return DenseHeads(**settings)


def image(**changes) -> ImageHeads:
    return ImageHeads(**{"recipe": recipe(), "transform": SingleCrop(32), "size": 32, **changes})


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


def test_pictures_have_the_masks_size_where_scores_have_another(make: Make, context):
    small = SegmentationInference(short=32, square=True, pixels=20)
    outcome = dense(inference=small, features=FeatureSpec(fit="pad")).run(
        Pixels(8), make(), context()
    )
    assert [tuple(each.shape) for each in outcome.predictions] == [(32, 48)] * 3
    assert int(outcome.counts.truth.sum()) <= 3 * 20 * 20


def test_all_that_decides_heads_is_in_the_key_of_their_state(make: Make, imagenet):
    def key(seed: int = 0, encoder: Encoder | None = None, **changes) -> str:
        data: VisionDataModule = Folder(str(root), num_workers=0, max_unreadable=0)
        return key_of_heads(encoder or vit(), dense(**changes), data, "train", seed)

    root = make().root
    keys = [key(), key(1), key(encoder=Pixels(8)), key(recipe=recipe(batch_size=1))]
    assert key() == keys[0]
    for name in ("masks/train/train1", "masks/val/val2", "images/train/train0", "images/val/val0"):
        file = str(root / f"{name}.png")
        cv2.imwrite(file, 1 - cv2.imread(file, cv2.IMREAD_UNCHANGED).clip(0, 1))
        keys.append(key())
    names = {"classes": ["bright", "dark", "void"], "ignore_index": VOID}
    (root / "classes.json").write_text(json.dumps(names))
    keys.append(key())
    for split in ("", "train", "val"):
        if split:
            found = imagenet.samples(split)
            imagenet._samples[split] = replace(found, labels=found.labels[::-1].copy())
        keys.append(key_of_heads(vit(), image(), imagenet, "train", 0))
    assert len(set(keys)) == len(keys) == 12


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("protocol", [dense(), Hummingbird(32, 0, 1, 2)], ids=["heads", "memory"])
def test_a_split_without_any_label_is_refused(
    make: Make, context, monkeypatch, protocol, split: str
):
    data = make(void=(split,))
    with refused("data"):
        check(Pixels(8), protocol, data)
    monkeypatch.setattr("vitlab.evaluation.evaluate.check", lambda *_: None)
    with refused(kind=ValueError):  # if it was not checked before
        evaluate(Pixels(8), protocol, data, context())


def test_void_that_is_learned_from_is_no_reason_to_refuse(make: Make):
    quirks = Quirks(void="background")
    check(Pixels(8), Hummingbird(32, 0, 1, 2, quirks=quirks), make(void=("train",)))


def test_damaged_weights_have_no_score(make: Make, imagenet: ImageNet, context):
    encoder = vit()
    encoder.norm.weight.data[3] = torch.nan
    for protocol, data in ((dense(), make()), (image(), imagenet)):
        with refused(kind=ValueError):
            protocol.run(encoder, data, context())


@pytest.mark.parametrize("kind", ["dense", "image"])
def test_a_head_that_diverged_is_never_chosen_and_never_the_headline(
    make: Make, imagenet: ImageNet, context, kind: str
):
    data, test = (make(), dense) if kind == "dense" else (imagenet, image)
    wild = {"optimizer": "sgd", "iterations": 12, "momentum": 0.0}
    lrs = (1e38, 0.01)
    chosen = test(recipe=recipe(lrs=lrs, select="val", **wild)).run(Pixels(8), data, context())
    assert "rate 0.01" in chosen.chosen
    assert [math.isnan(score) for score in chosen.tried.values()] == [True, False]
    assert chosen.scores[chosen.headline] == max(
        score for score in chosen.scores.values() if not math.isnan(score)
    )
    for changes in ({"lrs": lrs}, {"lrs": lrs[:1], "select": "val"}):
        with refused(kind=ValueError):
            test(recipe=recipe(**changes, **wild)).run(Pixels(8), data, context())


def test_images_that_are_scored_are_not_learned_from(make: Make, drawn: Path):
    with refused(kind=ValueError, wording=False):
        dense(train_split="val").check(Pixels(8), make())
    same = ImageNet(str(drawn / "imagenet"), train_split="val", max_unreadable=0)
    for protocol in (image(), ImageKNN(3, (3,), size=32)):
        with refused(kind=ValueError, wording=False):
            protocol.check(Pixels(8), same)


def test_a_rank_without_images_counts_nothing():
    empty = IoUAccumulator(5).overlaps()
    assert {value.shape for value in empty.tensors().values()} == {(0, 5)}
    assert empty.both.dtype == torch.long
