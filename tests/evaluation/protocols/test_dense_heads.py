from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.data import VOC2012, Folder, SegmentationCrop, SegmentationWhole
from vitlab.encoders import Encoder, Tokens, TokenSequence, ViT
from vitlab.encoders.tokens import assemble
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.protocols import DenseHeads
from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import head_training
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


class OneHot(Encoder):
    """Knows the color of each patch: its features are the classes."""

    patch_size, embed_dim = 8, len(PALETTE)

    def walk(self, images: torch.Tensor) -> Iterator[TokenSequence]:
        colors = F.avg_pool2d(images, 8).permute(0, 2, 3, 1)
        known = torch.tensor(PALETTE / 255, dtype=torch.float32)
        known = (known - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        nearest = (colors[..., None, :] - known).square().sum(-1).argmin(-1)
        patches = F.one_hot(nearest, self.embed_dim).float().flatten(1, 2)
        yield TokenSequence(
            assemble(patches.mean(1, keepdim=True), patches[:, :0], patches),
            tuple(colors.shape[1:3]),
        )

    def forward(self, images: torch.Tensor) -> Tokens:
        return next(iter(self.walk(images))).tokens()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two colors side by side, which are the classes; void where an enlarged map is in between."""
    root = tmp_path_factory.mktemp("halves")
    for split, count in (("train", 20), ("val", 6)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            classes = np.full((32, 48), index % 4, np.uint8)
            classes[:, 24:] = (index // 4 + index + 1) % 4
            mask = classes.copy()
            mask[:, 20:28] = 4
            cv2.imwrite(str(root / f"images/{split}/{index:02}.png"), PALETTE[classes][..., ::-1])
            cv2.imwrite(str(root / f"masks/{split}/{index:02}.png"), mask)
    (root / "classes.json").write_text(
        '{"classes": ["red", "green", "blue", "yellow", "void"], "ignore_index": 4}'
    )
    return root


@pytest.fixture
def data(halves) -> Folder:
    return folder(halves)


def folder(root: Path, **options) -> Folder:
    return Folder(str(root), num_workers=0, max_unreadable=0, **options)


@pytest.fixture
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


def recipe(**changes) -> TrainingRecipe:
    start = TrainingRecipe(WarmupPoly(warmup_steps=2), lrs=(0.05,), batch_size=4, iterations=30)
    return replace(start, **changes)


def protocol(**changes) -> DenseHeads:
    settings = {
        "transform": SegmentationCrop(32, 32, (1.0, 1.0), cat_max_ratio=1.0, photometric=False),
        "recipe": recipe(),
        "inference": SegmentationInference(short=32, window=32, stride=16),
        **changes,
    }
    return DenseHeads(**settings)


AUGMENTED = {"transform": SegmentationCrop(32, 32)}
MANY = {
    "recipe": recipe(lrs=(0.001, 0.05), iterations=12),
    "features": FeatureSpec(cls=(False, True)),
}


@pytest.mark.parametrize(
    "inference",
    [
        SegmentationInference(short=32, window=32, stride=24, average="probabilities"),
        SegmentationInference(short=64, window=32, stride=16, ratios=(1.0, 2.0), flip=True),
    ],
    ids=["probabilities", "scales"],
)
def test_colors_that_are_classes_are_found_to_the_pixel(data, context, inference):
    test = protocol(inference=inference)
    for each in (test, protocol(precision="bf16")):
        outcome = evaluate(OneHot(), each, data, context())
        assert outcome.headline == "miou"
        assert outcome.scores["miou"] == outcome.counts.value == 100.0
    assert (outcome.chosen, outcome.chosen_on) == ("", "")
    assert [tuple(each.shape) for each in outcome.predictions] == [(32, 48)] * 4
    assert set(outcome.predictions[1].unique().tolist()) == {1, 2}


def test_many_heads_are_what_each_is_alone(data, context):
    many = protocol(**MANY).run(OneHot(), data, context())
    assert len(many.tried) == 4
    assert many.chosen == next(iter(many.tried))  # the first, not the best on what is reported
    assert many.chosen_on == ""
    for cls in (False, True):
        for lr in (0.001, 0.05):
            settings = {
                "recipe": recipe(lrs=(lr,), iterations=12),
                "features": FeatureSpec(cls=(cls,)),
            }
            ((name, score),) = protocol(**settings).run(OneHot(), data, context()).tried.items()
            assert many.tried[name] == score


@pytest.mark.parametrize("select", ["held out", "val"])
def test_the_images_that_decide_are_named(data, context, select):
    chosen = replace(MANY["recipe"], select=select, eval_interval=4)
    outcome = protocol(**{**MANY, "recipe": chosen}).run(OneHot(), data, context())
    assert outcome.chosen_on == select
    assert len(outcome.tried) == 4 * 3
    assert outcome.tried[outcome.chosen] == max(outcome.tried.values())
    assert outcome.scores["miou"] == outcome.counts.value
    if select == "val":
        assert outcome.scores["miou"] == outcome.tried[outcome.chosen]


def test_the_first_test_images_may_be_all_and_the_split_is_named(data, context):
    quick = {"recipe": recipe(iterations=2)}
    few = protocol(max_val_images=3, train_split="train", **quick).run(OneHot(), data, context())
    assert (len(few.counts), few.train) == (3, "train")
    most = protocol(max_val_images=30, **quick).run(OneHot(), data, context())
    assert (len(most.counts), most.train) == (6, "")


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The heads at the end of training."""
    return torch.load(folder / "heads.pt", weights_only=True)["heads"]["weights"]


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(
        torch.equal(value, other[head][key])
        for head, state in one.items()
        for key, value in state.items()
    )


def test_the_seed_of_the_evaluation_decides_and_no_other(halves, vit, context, tmp_path):
    """Nor do workers, batches and the global generator."""
    test = protocol(recipe=recipe(iterations=3), **AUGMENTED)
    ends = []
    for place, (seed, batch) in enumerate(((0, 2), (0, 3), (1, 2))):
        torch.manual_seed(place)
        work = context(batch, seed=seed, folder=tmp_path / str(place))
        test.run(vit, folder(halves, seed=place), work)
        ends.append(weights(tmp_path / str(place)))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_a_killed_evaluation_goes_on_to_the_bit(data, vit, context, tmp_path, monkeypatch):
    monkeypatch.setattr(head_training, "SECONDS", 0.0)
    settings = {"recipe": recipe(iterations=8, select="val", eval_interval=4), **AUGMENTED}
    whole = protocol(**settings).run(vit, data, context(folder=tmp_path / "whole"))
    calls = []
    read = FeatureSpec.read

    def kill(*given):
        calls.append(1)
        if len(calls) == 16:  # four passes in training, then the first evaluation
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(FeatureSpec, "read", kill)
    with pytest.raises(KeyboardInterrupt):
        protocol(**settings).run(vit, data, context(folder=tmp_path / "killed"))
    # made anew, as by another process
    resumed = protocol(**settings).run(vit, data, context(folder=tmp_path / "killed"))
    assert resumed.tried == whole.tried
    assert len(calls) == 16 + 1 + 2 * 6 + 4  # the last step, two tests, and pictures
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    # a state of other weights is left alone
    first = torch.load(tmp_path / "whole/heads.pt", weights_only=True)["key"]
    vit.norm.bias.data += 1
    protocol(**settings).run(vit, data, context(folder=tmp_path / "whole"))
    assert torch.load(tmp_path / "whole/heads.pt", weights_only=True)["key"] != first


@pytest.mark.parametrize("damage", ["empty", "cut", "another's"])
def test_a_damaged_state_is_named_and_not_read(data, context, tmp_path, damage: str):
    test, work = protocol(recipe=recipe(iterations=4)), context(folder=tmp_path / "kept")
    first = test.run(OneHot(), data, work)
    file = tmp_path / "kept" / head_training.FILE
    whole = file.read_bytes()
    if damage == "another's":
        torch.save({"step": 3}, file)
    else:
        file.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"kept/heads\.pt is damaged"):
        again = test.run(OneHot(), data, work)
    assert again.tried == first.tried
    assert torch.load(file, weights_only=True)["step"] == 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"features": FeatureSpec((LayerSelection((4,)),))}, None),
        ({"transform": SegmentationCrop(36, 36)}, None),
        ({"inference": SegmentationInference(short=36, window=36, stride=18)}, None),
        ({"inference": SegmentationInference(short=32)}, None),
        ({"transform": SegmentationWhole()}, "protocol.transform"),
        ({"train_split": "test"}, None),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_once(data, vit, changes: dict, field):
    with refused(field, kind=ValueError):
        protocol(**changes).check(vit, data)


def test_nameless_classes_are_refused(drawn: Path):
    class Short(VOC2012):
        classes = VOC2012.classes[:-1]

    with refused("data"):
        protocol().check(OneHot(), Short(str(drawn / "VOCdevkit")))
    with refused("protocol.max_val_images"):
        protocol(max_val_images=-1)


def test_batches_without_any_label_are_survived(halves: Path, context, tmp_path: Path):
    root = tmp_path / "void"
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
            for index in range(4):
                place = f"{kind}/{split}/{index:02}.png"
                picture = cv2.imread(str(halves / place), cv2.IMREAD_UNCHANGED)
                blank = kind == "masks" and split == "train" and index < 3
                cv2.imwrite(str(root / place), np.full_like(picture, 4) if blank else picture)
    (root / "classes.json").write_text((halves / "classes.json").read_text())
    test = protocol(recipe=recipe(iterations=4, batch_size=1))
    assert np.isfinite(test.run(OneHot(), folder(root), context()).scores["miou"])
