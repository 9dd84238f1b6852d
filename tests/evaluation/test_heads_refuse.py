"""What would give trained heads a number that means nothing: refused, or never chosen."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vitlab.data import Folder, ImageNet, SegmentationCrop, SingleCrop, VisionDataModule
from vitlab.encoders import Encoder, Pixels, Tokens, ViT
from vitlab.encoders.tokens import TokenSequence
from vitlab.evaluation import EvaluationContext
from vitlab.evaluation.evaluate import check
from vitlab.evaluation.protocols.dense_heads import DenseHeads
from vitlab.evaluation.protocols.hummingbird import Hummingbird, Quirks
from vitlab.evaluation.protocols.image_heads import ImageHeads
from vitlab.evaluation.protocols.image_knn import ImageKNN
from vitlab.evaluation.protocols.trained_heads import key_of_heads
from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import InferenceConfig, head_training
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.metrics import IoUAccumulator
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference

ROOT = Path(__file__).parents[2]
WORK = EvaluationContext(InferenceConfig(torch.device("cpu")), quiet=True)
VOID = 2
Make = Callable[..., Folder]


class Headless(Encoder):
    """Has no image-level feature."""

    patch_size, embed_dim = 8, 0

    def walk(self, images: torch.Tensor) -> Iterator[TokenSequence]:
        grid = (images.shape[2] // 8, images.shape[3] // 8)
        yield TokenSequence(images.new_zeros(len(images), 1 + grid[0] * grid[1], 0), grid)

    def forward(self, images: torch.Tensor) -> Tokens:
        return next(iter(self.walk(images))).tokens()


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


@pytest.fixture
def imagenet(drawn: Path) -> ImageNet:
    return ImageNet(str(drawn / "imagenet"), num_workers=0, max_unreadable=0)


def recipe(**changes) -> TrainingRecipe:
    return replace(TrainingRecipe(WarmupPoly(), lrs=(0.05,), batch_size=2, iterations=4), **changes)


def dense(**changes) -> DenseHeads:
    settings = {
        "transform": SegmentationCrop(32, 32, (1.0, 1.0), cat_max_ratio=1.0, photometric=False),
        "recipe": recipe(),
        "test": SegmentationInference(short=32, window=32, stride=16),
        **changes,
    }
    return DenseHeads(**settings)


def image(**changes) -> ImageHeads:
    return ImageHeads(**{"recipe": recipe(), "transform": SingleCrop(32), "size": 32, **changes})


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


def test_pictures_have_the_masks_size_where_scores_have_another(make: Make):
    test = dense(
        test=SegmentationInference(short=32, square=True, pixels=20), inputs=FeatureSpec(fit="pad")
    )
    outcome = test.run(Pixels(8), make(), WORK)
    assert [tuple(each.shape) for each in outcome.predictions] == [(32, 48)] * 3
    assert int(outcome.evidence.truth.sum()) <= 3 * 20 * 20


def rewritten(file: Path) -> None:
    cv2.imwrite(str(file), 1 - cv2.imread(str(file), cv2.IMREAD_UNCHANGED).clip(0, 1))


def test_all_that_decides_heads_is_in_the_key_of_their_state(make: Make):
    def key(
        data: VisionDataModule, seed: int = 0, encoder: Encoder | None = None, **changes
    ) -> str:
        return key_of_heads(encoder or vit(), dense(**changes), data, "train", seed)

    def fresh() -> Folder:
        return Folder(str(root), num_workers=0, max_unreadable=0)

    root = make().root
    first = key(fresh())
    assert key(fresh()) == first
    others = [
        key(fresh(), 1),
        key(fresh(), encoder=Pixels(8)),
        key(fresh(), recipe=recipe(batch_size=1)),
    ]
    for name in ("masks/train/train1", "masks/val/val2", "images/train/train0", "images/val/val0"):
        rewritten(root / f"{name}.png")
        others.append(key(fresh()))
    names = {"classes": ["bright", "dark", "void"], "ignore_index": VOID}
    (root / "classes.json").write_text(json.dumps(names))
    others.append(key(fresh()))
    assert len({first, *others}) == 1 + len(others)


def test_labels_are_in_the_key_too(imagenet: ImageNet):
    keys = [key_of_heads(vit(), image(), imagenet, "train", 0)]
    for split in ("train", "val"):
        found = imagenet.samples(split)
        imagenet._samples[split] = replace(found, labels=found.labels[::-1].copy())
        keys.append(key_of_heads(vit(), image(), imagenet, "train", 0))
    assert len(set(keys)) == 3


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("protocol", [dense(), Hummingbird(32, 0, 1, 2)], ids=["heads", "memory"])
def test_a_split_without_any_label_is_refused_before_long_work(make: Make, protocol, split: str):
    with pytest.raises(ValueError, match=f"spread over split '{split}' of Folder, are void"):
        check(Pixels(8), protocol, make(void=(split,)))


def test_void_that_is_learned_from_is_no_reason_to_refuse(make: Make):
    quirks = Quirks(void="background")
    check(Pixels(8), Hummingbird(32, 0, 1, 2, quirks=quirks), make(void=("train",)))


def test_training_that_never_sees_a_label_is_refused(make: Make):
    with pytest.raises(ValueError, match="all training masks are void"):
        dense().run(Pixels(8), make(void=("train",)), WORK)


@pytest.mark.parametrize("protocol", [dense(), Hummingbird(32, 0, 1, 2)], ids=["heads", "memory"])
def test_test_images_without_any_label_have_no_score(make: Make, protocol):
    with pytest.raises(ValueError, match="3 scored masks of split 'val'"):
        protocol.run(Pixels(8), make(void=("val",)), WORK)


def test_damaged_weights_have_no_score(make: Make, imagenet: ImageNet):
    encoder = vit()
    encoder.norm.weight.data[3] = torch.nan
    for protocol, data in ((dense(), make()), (image(), imagenet)):
        with pytest.raises(ValueError, match="features are not finite: the weights are damaged"):
            protocol.run(encoder, data, WORK)


@pytest.mark.parametrize("kind", ["dense", "image"])
def test_a_head_that_diverged_is_never_chosen_and_never_the_headline(
    make: Make, imagenet: ImageNet, kind: str
):
    data, test = (make(), dense) if kind == "dense" else (imagenet, image)
    wild = {"optimizer": "sgd", "iterations": 12, "momentum": 0.0}
    rates = (1e38, 0.01)
    chosen = test(recipe=recipe(lrs=rates, select="val", **wild)).run(Pixels(8), data, WORK)
    assert "rate 0.01" in chosen.chosen
    assert [math.isnan(score) for score in chosen.tried.values()] == [True, False]
    assert chosen.scores[chosen.headline] == max(
        score for score in chosen.scores.values() if not math.isnan(score)
    )
    with pytest.raises(ValueError, match=r"rate 1e\+38\) has diverged"):
        test(recipe=recipe(lrs=rates, **wild)).run(Pixels(8), data, WORK)
    with pytest.raises(ValueError, match="all have diverged"):
        test(recipe=recipe(lrs=rates[:1], select="val", **wild)).run(Pixels(8), data, WORK)


def test_images_that_are_scored_are_not_learned_from(make: Make, drawn: Path):
    data = make()
    with pytest.raises(ValueError, match="3 images are in both train: val and val: val"):
        dense(split="val").check(Pixels(8), data)
    same = ImageNet(str(drawn / "imagenet"), train_split="val", max_unreadable=0)
    for protocol in (image(), ImageKNN(3, (3,), size=32)):
        with pytest.raises(ValueError, match="are in both train: val and val: val"):
            protocol.check(Pixels(8), same)


def test_an_outcome_says_what_was_learned_from_and_how_much_was_scored(make: Make):
    data = make()
    plain = dense().run(Pixels(8), data, WORK)
    assert plain.train == ""
    own = dense(split="train", images=2).run(Pixels(8), data, WORK)
    assert (own.train, len(own.evidence)) == ("train", 2)


def test_a_rank_without_images_counts_nothing():
    empty = IoUAccumulator(5).overlaps()
    assert {value.shape for value in empty.tensors().values()} == {(0, 5)}
    assert empty.both.dtype == torch.long


def on_ranks(rank: int, store: str, images: str) -> None:
    torch.set_num_threads(1)
    file = dist.FileStore(f"{store}/store", 2)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=2)
    torch.save(of_ranks(store, images), f"{store}/{rank}.pt")
    dist.destroy_process_group()


def of_ranks(store: str, images: str) -> list[float]:
    held = recipe(select="held out")
    found = dense(recipe=held).run(
        vit(), Folder(f"{store}/one", num_workers=0, max_unreadable=0), WORK
    )
    data = ImageNet(images, num_workers=0, max_unreadable=0)
    few = data.samples("train").subset(5)
    data._samples = {"train": few, "val": data.samples("val").subset(1)}
    return [found.scores["miou"], image(recipe=held).run(vit(), data, WORK).scores["top1"]]


@pytest.mark.slow
def test_two_ranks_share_a_single_image(make: Make, drawn: Path, tmp_path: Path, monkeypatch):
    make("one", val=1)
    monkeypatch.syspath_prepend(ROOT)  # where the new processes find this file
    images = str(drawn / "imagenet")
    mp.spawn(on_ranks, (str(tmp_path), images), nprocs=2)
    one = of_ranks(str(tmp_path), images)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [one, one]


def test_an_encoder_without_cls_is_refused_where_cls_is_read(make: Make, imagenet: ImageNet):
    data = make()
    dense().check(Headless(), data)
    with pytest.raises(ValueError, match=r"Headless has no \[CLS\], which inputs.cls asks for"):
        dense(inputs=FeatureSpec(cls=(True,))).check(Headless(), data)
    for protocol in (image(), ImageKNN(3, (3,), size=32)):
        with pytest.raises(ValueError, match=r"Headless has no \[CLS\], which"):
            protocol.check(Headless(), imagenet)


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "another's"])
def test_a_damaged_state_is_named_and_not_read(make: Make, tmp_path: Path, damage: str):
    data, work = make(), replace(WORK, folder=tmp_path / "kept")
    first = dense().run(Pixels(8), data, work)
    file = tmp_path / "kept" / head_training.FILE
    whole = file.read_bytes()
    broken = {"empty": b"", "cut": whole[: len(whole) // 2], "foreign": b"no state at all"}
    if damage == "another's":
        torch.save({"step": 3}, file)
    else:
        file.write_bytes(broken[damage])
    with pytest.warns(UserWarning, match=r"kept/heads\.pt is damaged"):
        again = dense().run(Pixels(8), data, work)
    assert again.tried == first.tried
    assert torch.load(file, weights_only=True)["step"] == 4
