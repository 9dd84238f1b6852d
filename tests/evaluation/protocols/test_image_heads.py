from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.data import VOC2012, ImageNet, SingleCrop, normalize
from vitlab.encoders import Encoder, Tokens, TokenSequence, ViT
from vitlab.encoders.tokens import assemble
from vitlab.evaluation.protocols import ImageHeads
from vitlab.optim.lr_schedule import CosineAnnealing
from vitlab.probes.feature_maps import ImageFeatureSpec
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.recipe import TrainingRecipe


class Brightness(Encoder):
    """Its [CLS] tells whether an image is brighter than the mean color, and nothing else."""

    patch_size, embed_dim = 8, 2

    def walk(self, images: torch.Tensor) -> Iterator[TokenSequence]:
        patches = F.avg_pool2d(images, 8).mean(1).flatten(1)
        patches = torch.stack([patches, -patches], -1)
        cls = (patches.mean(1, keepdim=True) > 0).float()
        grid = (images.shape[2] // 8, images.shape[3] // 8)
        yield TokenSequence(assemble(cls, patches[:, :0], patches), grid)

    def forward(self, images: torch.Tensor) -> Tokens:
        return next(iter(self.walk(images))).tokens()


@pytest.fixture
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


def recipe(**changes) -> TrainingRecipe:
    settings = {"optimizer": "sgd", "lrs": (0.1,), "batch_size": 8, "iterations": 6}
    return TrainingRecipe(CosineAnnealing(), **{**settings, **changes})


def protocol(**changes) -> ImageHeads:
    settings = {"recipe": recipe(), "transform": SingleCrop(32), "size": 32, **changes}
    return ImageHeads(**settings)


FOUR = ImageFeatureSpec((LayerSelection(), LayerSelection((-4, -3, -2, -1))), (False, True))


def test_all_variants_come_from_one_pass(vit: ViT, context):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    calls = []
    vit.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    features = FOUR.read(vit, images, context().loading).features
    assert len(calls) == 1
    layers = [vit.read(state) for state in list(vit.walk(normalize(images)))[1:]]
    cls = [tokens.cls for tokens in layers]
    mean = layers[-1].patches.mean(1)
    expected = [cls[3], torch.cat([cls[3], mean], -1)]
    expected += [torch.cat(cls, -1), torch.cat([*cls, mean], -1)]
    for found, value in zip(features.values(), expected, strict=True):
        assert torch.allclose(found[:, 0], value, atol=1e-6)
    assert {name: x.shape[-1] for name, x in features.items()} == FOUR.widths(vit)


def test_many_heads_are_what_each_is_alone_and_are_resumed(
    imagenet, vit, context, tmp_path, monkeypatch
):
    test = protocol(features=FOUR, recipe=recipe(lrs=(0.01, 0.1)))
    many = test.run(vit, imagenet, context(folder=tmp_path))
    assert len(many.tried) == 8
    assert many.chosen == next(iter(many.tried))
    assert many.headline == "top1"
    assert len(many.counts) == len(imagenet.samples("val"))
    assert many.scores["top1"] == many.counts.value
    for selection in FOUR.layer_selections:
        for mean in FOUR.mean:
            alone = protocol(features=ImageFeatureSpec((selection,), (mean,)))
            ((name, score),) = alone.run(vit, imagenet, context()).tried.items()
            assert many.tried[name] == score
    calls = []
    read = ImageFeatureSpec.read
    monkeypatch.setattr(ImageFeatureSpec, "read", lambda *given: calls.append(1) or read(*given))
    assert test.run(vit, imagenet, context(20, folder=tmp_path)).tried == many.tried
    assert len(calls) == 1  # the test images only


def test_a_class_that_features_tell_is_always_found(imagenet: ImageNet, context):
    """Labels are what the encoder says of the test view, so a line finds all of them."""
    for split in ("train", "val"):
        images = imagenet.classification_dataset(split, 32)
        stack = torch.stack([images[index][0] for index in range(len(images))])
        bright = Brightness()(normalize(stack)).cls[:, 0].long()
        imagenet._samples[split] = replace(imagenet.samples(split), labels=bright.numpy())
    test = protocol(
        transform=SingleCrop(32, (0.99, 1.0)),
        recipe=recipe(lrs=(1.0,), iterations=60, batch_size=16),
    )
    assert test.run(Brightness(), imagenet, context()).scores["top1"] == 100.0


def test_what_cannot_be_evaluated_is_refused(imagenet, vit, drawn):
    for changes in (
        {"features": ImageFeatureSpec((LayerSelection((7,)),))},
        {"size": 36},
        {"transform": SingleCrop(30)},
    ):
        with refused(kind=ValueError):
            protocol(**changes).check(vit, imagenet)
    with refused(kind=ValueError, wording=False):
        protocol().check(vit, VOC2012(str(drawn / "VOCdevkit")))
    found = imagenet.samples("val")
    imagenet._samples["val"] = replace(found, labels=found.labels + 100)
    with refused("data"):
        protocol().check(vit, imagenet)
    with refused("protocol.features.mean"):
        ImageFeatureSpec(mean=(True, True))
