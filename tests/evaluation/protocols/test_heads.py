"""What dense heads and those of images have in common; and what would give them a wrong number."""

import math
from dataclasses import replace

import cv2
import pytest
import torch
from colors import Known
from refusals import refused

from vitlab.data import (
    VOC2012,
    ImageNet,
    SegmentationCrop,
    SegmentationWhole,
    SingleCrop,
    normalize,
)
from vitlab.encoders import Pixels
from vitlab.evaluation.evaluate import check
from vitlab.evaluation.protocols import ImageKNN
from vitlab.evaluation.protocols.trained_heads import HeadRun
from vitlab.probes.layer_selection import FeatureSpec, ImageFeatureSpec, LayerSelection
from vitlab.probes.segmentation_inference import SegmentationInference

FOUR = ImageFeatureSpec((LayerSelection(), LayerSelection((-4, -3, -2, -1))), (False, True))
LRS = (0.001, 0.05)


def relabel(data, split, labels):
    data._samples[split] = replace(data.samples(split), labels=labels)


def test_variants_are_cls_of_layers_and_the_mean_of_patches(vit, context):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    features = FOUR.read(vit, images, context().loading).features
    layers = [vit.read(state) for state in list(vit.walk(normalize(images)))[1:]]
    cls, mean = [tokens.cls for tokens in layers], layers[-1].patches.mean(1)
    for found, parts in zip(
        features.values(), (cls[3:], [cls[3], mean], cls, [*cls, mean]), strict=True
    ):
        assert torch.allclose(found[:, 0], torch.cat(parts, -1), atol=1e-6)
    assert {name: x.shape[-1] for name, x in features.items()} == FOUR.widths(vit)


def test_many_heads_are_what_each_is_alone(heads, vit, context):
    make, data = heads
    many, alone = FOUR, [ImageFeatureSpec((each,), (True,)) for each in FOUR.layer_selections]
    if make().task == "segmentation":
        many, alone = FeatureSpec(cls=(False, True)), [FeatureSpec(cls=(True,))]
    found = make({"lrs": LRS}, features=many).run(vit, data, context())
    assert len(found.tried) == 2 * len(many.widths(vit))
    # the first, not the best on what is reported
    assert (found.chosen, found.chosen_on) == (next(iter(found.tried)), "")
    assert found.scores[found.headline] == found.counts.value == found.tried[found.chosen]
    assert len(found.counts) == len(data.samples("val"))
    for features in alone:
        one = make({"lrs": LRS[1:]}, features=features).run(vit, data, context())
        assert one.tried.items() < found.tried.items()
        assert (one.chosen, one.chosen_on) == ("", "")


@pytest.mark.parametrize("select", ["held out", "val"])
def test_the_images_that_decide_are_named(heads, vit, context, select):
    make, data = heads
    recipe = {"lrs": LRS, "select": select, "iterations": 6, "eval_interval": 2}
    found = make(recipe).run(vit, data, context())
    assert found.chosen_on == select
    assert len(found.tried) == 2 * 3
    assert found.tried[found.chosen] == max(found.tried.values())
    assert found.scores[found.headline] == found.counts.value
    if select == "val":
        assert found.counts.value == found.tried[found.chosen]


def test_a_class_that_features_tell_is_always_found(imagenet, image, context):
    """Labels are what the encoder says of the test view, so a line finds all of them."""

    class Brightness(Known):
        embed_dim = 2

        def features(self, patches):
            bright = (patches.mean((1, 2), keepdim=True) > 0).float()
            return bright.expand(-1, patches.shape[1], 2)

    for split in ("train", "val"):
        images = imagenet.classification_dataset(split, 32)
        stack = torch.stack([images[index][0] for index in range(len(images))])
        bright = Brightness()(normalize(stack)).cls[:, 0].long()
        relabel(imagenet, split, bright.numpy())
    recipe = {"lrs": (1.0,), "iterations": 60, "batch_size": 16}
    test = image(recipe, transform=SingleCrop(32, (0.99, 1.0)))
    assert test.run(Brightness(), imagenet, context()).scores["top1"] == 100.0


def test_all_that_decides_heads_is_in_the_key_of_their_state(
    make, imagenet, dense, image, vit, context
):
    data = make()

    def key(seed: int = 0, encoder=vit, recipe=None, **changes) -> str:
        return HeadRun(dense(recipe, **changes), encoder, data, context(seed=seed)).key

    keys = [key(), key(1), key(encoder=Pixels(8)), key(recipe={"batch_size": 1})]
    keys += [key(transform=SegmentationCrop(32, 32, (1.0, 2.0))), key(train_split="train")]
    assert key() == keys[0]
    for name in ("masks/train/train01", "masks/val/val02", "images/train/train00"):
        file = str(data.root / f"{name}.png")
        cv2.imwrite(file, 1 - cv2.imread(file, cv2.IMREAD_UNCHANGED).clip(0, 1))
        keys.append(key())
    keys.append(HeadRun(image(), vit, imagenet, context()).key)
    for split in ("train", "val"):
        relabel(imagenet, split, imagenet.samples(split).labels[::-1].copy())
        keys.append(HeadRun(image(), vit, imagenet, context()).key)
    assert len(set(keys)) == len(keys) == 12


def test_damaged_weights_have_no_score(heads, vit, context):
    make, data = heads
    vit.norm.weight.data[3] = torch.nan
    with refused("features"):
        make().run(vit, data, context())


def test_a_head_that_diverged_is_never_chosen_and_never_the_headline(heads, context):
    make, data = heads
    wild = {"optimizer": "sgd", "iterations": 12, "momentum": 0.0, "lrs": (1e38, 0.01)}
    chosen = make({**wild, "select": "val"}).run(Pixels(8), data, context())
    assert "rate 0.01" in chosen.chosen
    assert [math.isnan(score) for score in chosen.tried.values()] == [True, False]
    assert chosen.scores[chosen.headline] == chosen.tried[chosen.chosen]
    for recipe in (wild, {**wild, "lrs": (1e38,), "select": "val"}):
        with refused("protocol.recipe.lrs"):
            make(recipe).run(Pixels(8), data, context())


DEEP = LayerSelection((7,))


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        ("dense", {"features": FeatureSpec((DEEP,))}, "layers"),
        ("dense", {"transform": SegmentationCrop(36, 36)}, "protocol.features.fit"),
        ("dense", {"inference": SegmentationInference(36, window=36, stride=18)}, None),
        ("dense", {"inference": SegmentationInference(32)}, "protocol.features.fit"),
        ("dense", {"transform": SegmentationWhole()}, "protocol.transform"),
        ("dense", {"train_split": "test"}, None),
        ("dense", {"train_split": "val"}, None),  # which is scored
        ("dense", {"max_val_images": -1}, "protocol.max_val_images"),
        ("image", {"features": ImageFeatureSpec((DEEP,))}, "layers"),
        ("image", {"size": 36}, None),
        ("image", {"transform": SingleCrop(30)}, None),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    make, imagenet, dense, image, vit, kind, changes, field
):
    test, data = (dense, make()) if kind == "dense" else (image, imagenet)
    with refused(field, kind=ValueError):
        check(vit, test(**changes), data)


def test_data_that_do_not_fit_are_refused(make, imagenet, dense, image, vit, drawn):
    class Short(VOC2012):
        classes = VOC2012.classes[:-1]

    with refused("data"):
        check(vit, dense(), Short(str(drawn / "VOCdevkit"), max_unreadable=0))
    with refused("--protocol"):
        check(vit, image(), make())
    with refused("data.max_unreadable"):
        check(vit, image(), ImageNet(str(drawn / "imagenet"), max_unreadable=1))
    relabel(imagenet, "val", imagenet.samples("val").labels + 100)
    with refused("data"):
        check(vit, image(), imagenet)
    same = ImageNet(str(drawn / "imagenet"), train_split="val", max_unreadable=0)
    for protocol in (image(), ImageKNN(3, (3,), size=32)):
        with refused(kind=ValueError, wording=False):  # images that are scored
            check(vit, protocol, same)
