from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import nn

from vitlab.data import VOC2012, ImageNet, SingleCrop, normalize
from vitlab.encoders import Encoder, Tokens, ViT
from vitlab.encoders.tokens import TokenSequence, assemble
from vitlab.evaluation import EvaluationContext, Protocol, registry
from vitlab.evaluation.protocols.image_heads import ImageHeads, ImageInputs
from vitlab.optim.lr_schedule import CosineAnnealing
from vitlab.probes import InferenceConfig
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.linear_heads import HeadConfig
from vitlab.probes.recipe import TrainingRecipe

ROOT = Path(__file__).parents[2]
WORK = EvaluationContext(InferenceConfig(torch.device("cpu")), quiet=True)


class Brightness(Encoder):
    """Its [CLS] says whether an image is brighter than the mean color, and nothing else."""

    patch_size, embed_dim = 8, 2

    def walk(self, images: torch.Tensor) -> Iterator[TokenSequence]:
        patches = F.avg_pool2d(images, 8).mean(1).flatten(1)
        patches = torch.stack([patches, -patches], -1)
        cls = (patches.mean(1, keepdim=True) > 0).float()
        yield TokenSequence(
            assemble(cls, patches[:, :0], patches), (images.shape[2] // 8, images.shape[3] // 8)
        )

    def forward(self, images: torch.Tensor) -> Tokens:
        return next(iter(self.walk(images))).tokens()


@pytest.fixture
def imagenet(drawn: Path) -> ImageNet:
    return ImageNet(str(drawn / "imagenet"), num_workers=0, max_unreadable=0)


@pytest.fixture
def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


def recipe(**changes) -> TrainingRecipe:
    settings = {"optimizer": "sgd", "lrs": (0.1,), "batch_size": 8, "iterations": 6}
    return TrainingRecipe(CosineAnnealing(), **{**settings, **changes})


def protocol(**changes) -> ImageHeads:
    settings = {"recipe": recipe(), "transform": SingleCrop(32), "size": 32, **changes}
    return ImageHeads(**settings)


FOUR = ImageInputs((LayerSelection(), LayerSelection((-4, -3, -2, -1))), (False, True))


def test_all_variants_come_from_one_pass(encoder: ViT):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    calls = []
    encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    features = FOUR.read(encoder, images, WORK)
    assert len(calls) == 1
    with torch.no_grad():
        states = list(encoder.walk(normalize(images)))[1:]
        layers = [encoder.read(state) for state in states]
    cls = [tokens.cls for tokens in layers]
    mean = layers[-1].patches.mean(1)
    expected = [cls[3], torch.cat([cls[3], mean], -1)]
    expected += [torch.cat(cls, -1), torch.cat([*cls, mean], -1)]
    for found, value in zip(features.values(), expected, strict=True):
        assert torch.allclose(found[:, 0], value, atol=1e-6)
    assert {name: x.shape[-1] for name, x in features.items()} == FOUR.widths(encoder)


def test_many_heads_are_what_each_is_alone(imagenet: ImageNet, encoder: ViT):
    many = protocol(inputs=FOUR, recipe=recipe(lrs=(0.01, 0.1))).run(encoder, imagenet, WORK)
    assert len(many.tried) == 8
    assert many.chosen == next(iter(many.tried))
    for reading in FOUR.readings:
        for mean in FOUR.mean:
            alone = protocol(inputs=ImageInputs((reading,), (mean,)))
            ((name, score),) = alone.run(encoder, imagenet, WORK).tried.items()
            assert many.tried[name] == score


def test_the_accuracy_is_that_of_the_evidence(imagenet: ImageNet, encoder: ViT):
    outcome = protocol().run(encoder, imagenet, WORK)
    assert outcome.headline == "top1"
    assert len(outcome.evidence) == len(imagenet.samples("val"))
    assert outcome.scores["top1"] == outcome.evidence.value
    assert (outcome.chosen, outcome.chosen_on) == ("", "")


def test_a_class_that_features_tell_is_always_found(imagenet: ImageNet):
    """Labels are what the encoder says of the test view, so a line finds all of them."""
    for split in ("train", "val"):
        images = imagenet.classification_dataset(split, 32)
        with torch.no_grad():
            stack = torch.stack([images[index][0] for index in range(len(images))])
            bright = Brightness()(normalize(stack)).cls[:, 0].long()
        found = replace(imagenet.samples(split), labels=bright.numpy())
        imagenet._samples[split] = found
    transform = SingleCrop(32, (0.99, 1.0))
    test = protocol(transform=transform, recipe=recipe(lrs=(1.0,), iterations=60, batch_size=16))
    outcome = test.run(Brightness(), imagenet, WORK)
    assert outcome.scores["top1"] == 100.0


@pytest.mark.parametrize("select", ["val", "held out"])
def test_who_decides_is_said(imagenet: ImageNet, encoder: ViT, select: str):
    test = protocol(
        inputs=FOUR, recipe=recipe(epochs=3, iterations=0, select=select, eval_interval=1)
    )
    outcome = test.run(encoder, imagenet, WORK)
    assert outcome.chosen_on == select
    assert len(outcome.tried) == 4 * 3
    assert outcome.tried[outcome.chosen] == max(outcome.tried.values())
    if select == "val":
        assert outcome.scores["top1"] == outcome.tried[outcome.chosen]


def test_an_evaluation_that_is_repeated_goes_on_where_it_ended(
    imagenet: ImageNet, encoder: ViT, tmp_path: Path, monkeypatch
):
    work = replace(WORK, folder=tmp_path)
    first = protocol(inputs=FOUR).run(encoder, imagenet, work)
    calls = []
    read = ImageInputs.read  # not a hook of the encoder, with which nothing is resumed
    monkeypatch.setattr(ImageInputs, "read", lambda *given: calls.append(1) or read(*given))
    again = protocol(inputs=FOUR).run(encoder, imagenet, work)
    assert again.tried == first.tried
    assert len(calls) == 1  # the test images only


def on_ranks(rank: int, root: str, store: str) -> None:
    torch.set_num_threads(1)
    file = dist.FileStore(f"{store}/store", 2)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=2)
    torch.save(of_ranks(root, Path(store) / "several"), f"{store}/{rank}.pt")
    dist.destroy_process_group()


def of_ranks(root: str, kept: Path) -> dict:
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    data = ImageNet(root, num_workers=0, max_unreadable=0)
    outcome = protocol(
        inputs=FOUR, recipe=recipe(batch_size=9, iterations=9, select="val", eval_interval=3)
    ).run(encoder, data, replace(WORK, folder=kept))
    return {"tried": outcome.tried, "scores": outcome.scores, **outcome.evidence.tensors()}


@pytest.mark.slow
def test_two_ranks_find_what_one_does(drawn: Path, tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # where the new processes find this file
    mp.spawn(on_ranks, (str(drawn / "imagenet"), str(tmp_path)), nprocs=2)
    one = of_ranks(str(drawn / "imagenet"), tmp_path / "one")
    heads = [
        torch.load(tmp_path / name / "heads.pt", weights_only=True)["heads"]["weights"]
        for name in ("one", "several")
    ]
    for name, state in heads[0].items():
        assert all(torch.equal(value, heads[1][name][key]) for key, value in state.items())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (found["tried"], found["scores"]) == (one["tried"], one["scores"])
        assert torch.equal(found["correct"], one["correct"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ImageInputs((LayerSelection((7,)),))}, "layer 7 is asked"),
        ({"size": 36}, r"36x36 \(size\)"),
        ({"transform": SingleCrop(30)}, "transform.size"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(imagenet, encoder, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        protocol(**changes).check(encoder, imagenet)


def test_data_without_labels_or_with_nameless_classes_are_refused(imagenet, encoder, drawn: Path):
    with pytest.raises(ValueError, match="no image labels"):
        protocol().check(encoder, VOC2012(str(drawn / "VOCdevkit")))
    found = imagenet.samples("val")
    imagenet._samples["val"] = replace(found, labels=found.labels + 100)
    with pytest.raises(ValueError, match="name all of them"):
        protocol().check(encoder, imagenet)
    with pytest.raises(ValueError, match="none twice"):
        ImageInputs(mean=(True, True))


def made(name: str, changes: dict) -> ImageHeads:
    settings = registry.find(name).on("ImageNet")
    settings = {**settings, "init_args": registry.merge(settings["init_args"], changes)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Protocol, "protocol")
    return parser.instantiate_classes(parser.parse_object({"protocol": settings})).protocol


@pytest.mark.parametrize(
    ("name", "length"),
    [("linear-dino", {"epochs": 2}), ("linear-grid", {"iterations": 3})],
)
def test_every_protocol_runs_small_as_it_is_written(imagenet, encoder, name: str, length: dict):
    small = {
        "transform": {"init_args": {"size": 32}},
        "size": 32,
        "recipe": {"batch_size": 8, **length},
    }
    test = made(name, small)
    test.check(encoder, imagenet)
    outcome = test.run(encoder, imagenet, WORK)
    assert outcome.chosen_on == "val"
    assert len(outcome.tried) == (52 if name == "linear-grid" else 2)


def test_linear_dino_is_what_was_published():
    test = made("linear-dino", {})
    r = test.recipe
    assert (r.optimizer, r.momentum, r.weight_decay, r.epochs, r.batch_size) == (
        "sgd",
        0.9,
        0,
        100,
        1024,
    )
    assert r.peak_lr(r.lrs[0]) == pytest.approx(0.004)
    assert (r.select, r.eval_interval, vars(r.lr_schedule)) == ("val", 1, {"interval": "epoch"})
    assert test.layers == HeadConfig(norm=False, init_std=0.01)
    assert test.inputs == ImageInputs((LayerSelection((-4, -3, -2, -1), True),), (False,))
    assert (test.transform.size, test.transform.scale, test.transform.flip, test.size) == (
        224,
        (0.08, 1),
        0.5,
        224,
    )
    width = test.inputs.widths(ViT("S"))
    assert sum(p.numel() for p in nn.Linear(*width.values(), 1000).parameters()) == 1_537_000


def test_linear_grid_is_what_was_published():
    test = made("linear-grid", {})
    r = test.recipe
    assert (r.optimizer, r.momentum, r.weight_decay) == ("sgd", 0.9, 0)
    assert (r.iterations, r.batch_size, r.peak_lr(0.1)) == (12_500, 1024, pytest.approx(0.4))
    assert r.lrs == (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    assert (r.select, r.eval_interval, vars(r.lr_schedule)) == ("val", 0, {"interval": "step"})
    assert sorted(test.inputs.widths(ViT("S")).values()) == [384, 768, 1536, 1920]
