"""The files of protocols against what was published, value by value; and each of them run small."""

from itertools import pairwise

import pytest
import torch
from jsonargparse import ArgumentParser

import vitlab.evaluation.protocols  # noqa: F401, the parser finds classes once imported
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.data import VOC2012
from vitlab.encoders import ViT
from vitlab.evaluation import Protocol
from vitlab.evaluation.protocols import ImageHeads
from vitlab.evaluation.protocols.hummingbird import Quirks
from vitlab.evaluation.registry import find, merge
from vitlab.probes import DenseProbe
from vitlab.probes.feature_maps import ImageFeatureSpec
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.linear_heads import HeadConfig


def build(name: str, dataset: str = "ADE20K", changes: dict | None = None):
    settings = find(name).on(dataset)
    settings = {**settings, "init_args": merge(settings["init_args"], changes or {})}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Protocol, "protocol")
    return parser.instantiate_classes(parser.parse_object({"protocol": settings})).protocol


LAST, FOUR = LayerSelection(), LayerSelection((-4, -3, -2, -1))
CROP, WHOLE = (512, 512, 341, "logits"), (512, 0, 0, "logits")
# optimizer, learning rate, weight decay; iterations, epochs, batch; selection; head; features; test
PUBLISHED = {
    "dinov2-linear": [
        *("adamw", 1e-3, 1e-4, 40_000, 0, 16, "last", 0),
        *(HeadConfig(), LAST, CROP),
    ],
    "dinov2-linear-ms": [
        *("adamw", 1e-3, 1e-4, 40_000, 0, 16, "last", 0),
        *(HeadConfig(), FOUR, (640, 640, 320, "logits")),
    ],
    "dinov3-linear": [
        *("adamw", 1e-3, 1e-3, 40_000, 0, 16, "val", 5000),
        *(HeadConfig(dropout=0.1), LAST, (512, 512, 341, "probabilities")),
    ],
    "ibot-linear": [
        *("adamw", 8e-4, 0.05, 160_000, 0, 16, "last", 0),
        *(HeadConfig(norm=False), LayerSelection((3, 5, 7, 11)), CROP),
    ],
    "locat-mlp": [
        *("adamw", 1e-3, 0.01, 20_000, 0, 32, "last", 0),
        *(HeadConfig(norm=False, hidden_dim=512), LayerSelection((-1,), False), WHOLE),
    ],
    "patch100": [
        *("sgd", 0.01, 1e-4, 0, 25, 128, "val", 1),
        *(HeadConfig(norm=False, init_std=0.0), LAST, (448, 0, 0, "logits")),
    ],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_heads_are_those_of_the_papers(name: str):
    test = build(name)
    r, i = test.recipe, test.inference
    assert [
        *(r.optimizer, *r.lrs, r.weight_decay, r.iterations, r.epochs, r.batch_size),
        *(r.select, r.eval_interval, test.head, *test.features.layer_selections),
        (i.short, i.window, i.stride, i.average),
    ] == PUBLISHED[name]


def test_what_differs_by_dataset():
    voc = build("dinov2-linear", "VOC2012")
    assert voc.transform.size == voc.transform.short_side == voc.inference.window == 640
    assert voc.transform.ratio_range == (1.0, 3.0)
    small = build("patch100", "VOC2012")
    assert (small.train_split, small.inference.pixels, small.inference.square) == (
        "trainaug",
        100,
        True,
    )


def test_image_protocols_are_those_of_the_papers():
    knn = build("knn")
    assert (knn.k, knn.ks, knn.temperature, knn.size) == (20, (10, 20, 100, 200), 0.07, 224)
    assert knn.layer_selection == LAST
    dino, grid = build("linear-dino"), build("linear-grid")
    assert isinstance(dino, ImageHeads)
    for each in (dino, grid):
        r, view = each.recipe, each.transform
        assert (r.optimizer, r.momentum, r.weight_decay, r.batch_size) == ("sgd", 0.9, 0, 1024)
        assert each.head == HeadConfig(norm=False)
        assert (view.size, view.scale, view.flip, each.size) == (224, (0.08, 1), 0.5, 224)
    r = dino.recipe
    assert r.peak_lr(r.lrs[0]) == pytest.approx(0.004)
    assert (r.epochs, r.select, r.eval_interval) == (100, "val", 1)
    assert vars(r.lr_schedule) == {"interval": "epoch"}
    assert dino.features == ImageFeatureSpec((FOUR,), (False,))
    (width,) = dino.features.widths(ViT("S")).values()
    assert width * 1000 + 1000 == 1_537_000  # parameters of the published head
    r = grid.recipe
    assert (r.iterations, r.select, r.eval_interval) == (12_500, "val", 0)
    assert r.lrs == (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    assert r.peak_lr(0.1) == pytest.approx(0.4)
    assert vars(r.lr_schedule) == {"interval": "step"}
    assert sorted(grid.features.widths(ViT("S")).values()) == [384, 768, 1536, 1920]


def test_capis_protocols_are_the_released_ones():
    knn, logreg = build("capi-knn"), build("capi-logreg")
    assert (knn.ks, knn.metrics, knn.transfer) == ((1, 3, 10, 30), ("cosine", "l2"), "pixels")
    assert knn.settings[:3] == ["k 1, cosine", "k 1, l2", "k 3, cosine"]
    strengths = [float(strength) for strength in logreg.strengths]
    assert (strengths[0], strengths[-1]) == pytest.approx((1e-6, 1e5))
    assert [b / a for a, b in pairwise(strengths)] == pytest.approx([10 ** (11 / 7)] * 7)
    assert (logreg.max_iter, logreg.history_size) == (1000, 5)
    for each in (knn, logreg):
        assert (each.size, each.holdout_fraction, each.layer_selection) == (224, 0.1, LAST)


def test_hummingbird_is_the_published_one():
    plain, quirky = build("hummingbird"), build("hummingbird-compat")
    for each in (plain, quirky):
        assert (each.size, each.memory_size, each.augmentation_epochs) == (512, 10_240_000, 2)
        assert (each.num_neighbors, each.temperature) == (30, 0.02)
    assert plain.quirks == Quirks()
    assert build("hummingbird-compat", "VOC2012").quirks == Quirks(
        (0.5, 2.0), False, "background", 0.255, True
    )
    assert quirky.quirks.void == "class"  # of ADE20K


def test_the_fast_protocol_is_what_the_callback_does_by_default():
    fast, callback, dense = build("vitlab-fast"), OnlineProbes(), DenseProbe(2)
    assert (fast.size, fast.max_train_images) == (callback.dense_size, callback.dense_images)
    assert (fast.weight_decay, fast.max_iter) == (dense.weight_decay, dense.steps)


SMALL = {"recipe": {"iterations": 2, "batch_size": 2, "eval_interval": 0}}
CROPPED = {"transform": {"init_args": {"size": 32, "short_side": 32}}}
WINDOWS = {"inference": {"short": 32, "window": 32, "stride": 21}}
FEW = {"recipe": {"epochs": 1, "batch_size": 2}, "train_split": "train", "max_val_images": 2}
RUNS: dict[str, dict] = {
    **{name: {**SMALL, **WINDOWS, **CROPPED} for name in list(PUBLISHED)[:4]},
    "locat-mlp": {**SMALL, **CROPPED, "inference": {"short": 32}},
    "patch100": {**FEW, "transform": {"init_args": {"size": 32}}, "inference": {"short": 32}},
}
RUNS["ibot-linear"]["features"] = {"layer_selections": [{"layers": [0, 1, 2, 3]}]}


@pytest.mark.parametrize("name", RUNS)
def test_every_dense_protocol_runs_small_as_it_is_written(drawn, context, name: str):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    data = VOC2012(str(drawn / "VOCdevkit"), num_workers=0, max_unreadable=0)
    test = build(name, "VOC2012", RUNS[name])
    test.check(encoder, data)
    assert 0 <= test.run(encoder, data, context()).scores["miou"] <= 100


@pytest.mark.parametrize(
    ("name", "length"), [("linear-dino", {"epochs": 2}), ("linear-grid", {"iterations": 3})]
)
def test_every_image_protocol_runs_small_as_it_is_written(imagenet, context, name, length):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    recipe = {"recipe": {"batch_size": 8, **length}}
    test = build(name, "ImageNet", {"transform": {"init_args": {"size": 32}}, "size": 32, **recipe})
    test.check(encoder, imagenet)
    outcome = test.run(encoder, imagenet, context())
    assert outcome.chosen_on == "val"
    assert len(outcome.tried) == (52 if name == "linear-grid" else 2)
