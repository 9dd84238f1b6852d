import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import yaml
from jsonargparse import ArgumentParser

from vitlab.data import VOC2012, Folder, ImageNet, SegmentationCrop, SegmentationWhole
from vitlab.data.transforms import SegmentationRandomResizedCrop
from vitlab.encoders import Encoder, Tokens, ViT
from vitlab.encoders.tokens import TokenSequence, assemble
from vitlab.evaluation import EvaluationContext, Protocol, registry
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.protocols.dense_heads import DenseHeads
from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import InferenceConfig, head_training
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/protocols"
NAMES = ["dinov2-linear", "dinov2-linear-ms", "dinov3-linear", "ibot-linear", "locat-mlp"]
PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
WORK = EvaluationContext(InferenceConfig(torch.device("cpu")), quiet=True)


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
            color = PALETTE[classes][..., ::-1]
            cv2.imwrite(str(root / f"images/{split}/{index:02}.png"), color)
            cv2.imwrite(str(root / f"masks/{split}/{index:02}.png"), mask)
    names = {"classes": ["red", "green", "blue", "yellow", "void"], "ignore_index": 4}
    (root / "classes.json").write_text(json.dumps(names))
    return root


def folder(root: Path) -> Folder:
    return Folder(str(root), num_workers=0, max_unreadable=0)


def recipe(**changes) -> TrainingRecipe:
    return replace(
        TrainingRecipe(WarmupPoly(warmup_steps=2), lrs=(0.05,), batch_size=4, iterations=30),
        **changes,
    )


def protocol(**changes) -> DenseHeads:
    settings = {
        "transform": SegmentationCrop(32, 32, (1.0, 1.0), cat_max_ratio=1.0, photometric=False),
        "recipe": recipe(),
        "test": SegmentationInference(short=32, window=32, stride=16),
        **changes,
    }
    return DenseHeads(**settings)


@pytest.mark.parametrize(
    "test",
    [
        SegmentationInference(short=32, window=32, stride=16),
        SegmentationInference(short=32, window=32, stride=24, average="probabilities"),
        SegmentationInference(short=64, window=32, stride=16, ratios=(1.0, 2.0), flip=True),
    ],
    ids=["logits", "probabilities", "scales"],
)
def test_colors_that_are_classes_are_found_to_the_pixel(halves: Path, test: SegmentationInference):
    outcome = protocol(test=test).run(OneHot(), folder(halves), WORK)
    assert outcome.headline == "miou"
    assert outcome.scores["miou"] == outcome.evidence.value == 100.0
    assert (outcome.chosen, outcome.chosen_on) == ("", "")
    assert [tuple(each.shape) for each in outcome.predictions] == [(32, 48)] * 4
    assert set(outcome.predictions[1].unique().tolist()) == {1, 2}


MANY = {
    "recipe": recipe(lrs=(0.001, 0.05), iterations=12),
    "inputs": FeatureSpec(cls=(False, True)),
}


def test_many_heads_are_what_each_is_alone(halves: Path):
    data, encoder = folder(halves), OneHot()
    many = protocol(**MANY).run(encoder, data, WORK)
    assert len(many.tried) == 4
    assert many.chosen == next(iter(many.tried))  # the first, not the best on what is reported
    assert many.chosen_on == ""
    for cls in (False, True):
        for rate in (0.001, 0.05):
            alone = protocol(
                recipe=recipe(lrs=(rate,), iterations=12), inputs=FeatureSpec(cls=(cls,))
            )
            ((name, score),) = alone.run(encoder, data, WORK).tried.items()
            assert many.tried[name] == score


def test_held_out_images_decide_without_a_look_at_the_reported_ones(halves: Path):
    held = replace(MANY["recipe"], select="held out", every=4)
    outcome = protocol(**{**MANY, "recipe": held}).run(OneHot(), folder(halves), WORK)
    assert outcome.chosen_on == "held out"
    assert len(outcome.tried) == 4 * 3
    assert outcome.tried[outcome.chosen] == max(outcome.tried.values())
    assert outcome.scores["miou"] == outcome.evidence.value


def test_the_best_on_the_reported_images_is_called_so(halves: Path):
    chosen = replace(MANY["recipe"], select="val", every=4)
    outcome = protocol(**{**MANY, "recipe": chosen}).run(OneHot(), folder(halves), WORK)
    assert outcome.chosen_on == "val"
    assert outcome.scores["miou"] == outcome.tried[outcome.chosen] == max(outcome.tried.values())


def test_the_first_test_images_may_be_all(halves: Path):
    assert len(protocol(images=3).run(OneHot(), folder(halves), WORK).evidence) == 3
    assert len(protocol(images=30).run(OneHot(), folder(halves), WORK).evidence) == 6


@pytest.mark.slow
def test_workers_and_batch_change_nothing(halves: Path, tmp_path: Path):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    test = protocol(recipe=recipe(iterations=6), transform=SegmentationCrop(32, 32))
    test.run(encoder, folder(halves), replace(WORK, folder=tmp_path / "first"))
    other = replace(WORK, loading=InferenceConfig(torch.device("cpu"), batch_size=3, num_workers=2))
    test.run(encoder, folder(halves), replace(other, folder=tmp_path / "other"))
    assert same(weights(tmp_path / "first"), weights(tmp_path / "other"))


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What heads ended as."""
    return torch.load(folder / "heads.pt", weights_only=True)["heads"]["weights"]


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(
        torch.equal(value, other[head][key])
        for head, state in one.items()
        for key, value in state.items()
    )


def test_the_seed_of_the_work_decides_and_no_other(halves: Path, tmp_path: Path):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    test = protocol(recipe=recipe(iterations=3), transform=SegmentationCrop(32, 32))
    ends = []
    for place, seed in enumerate((0, 0, 1)):
        torch.manual_seed(place)
        work = replace(WORK, seed=seed, folder=tmp_path / str(place))
        test.run(encoder, Folder(str(halves), num_workers=0, max_unreadable=0, seed=place), work)
        ends.append(weights(tmp_path / str(place)))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_a_killed_evaluation_goes_on_to_the_bit(halves: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(head_training, "SECONDS", 0.0)
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    test = protocol(
        recipe=recipe(iterations=8, select="val", eval_interval=4),
        transform=SegmentationCrop(32, 32),
    )
    whole = test.run(encoder, folder(halves), replace(WORK, folder=tmp_path / "whole"))
    calls = []
    read = FeatureSpec.read  # not a hook of the encoder, with which nothing is resumed

    def kill(*given):
        calls.append(1)
        if len(calls) == 16:  # four passes in training, then the first evaluation
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(FeatureSpec, "read", kill)
    with pytest.raises(KeyboardInterrupt):
        test.run(encoder, folder(halves), replace(WORK, folder=tmp_path / "killed"))
    # made anew, as by another process
    test = protocol(
        recipe=recipe(iterations=8, select="val", eval_interval=4),
        transform=SegmentationCrop(32, 32),
    )
    resumed = test.run(encoder, folder(halves), replace(WORK, folder=tmp_path / "killed"))
    assert resumed.tried == whole.tried
    assert len(calls) == 16 + 1 + 2 * 6 + 4  # the last step, two tests, and pictures
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_state_of_other_weights_is_left_alone(halves: Path, tmp_path: Path):
    work = replace(WORK, folder=tmp_path)
    test = protocol(recipe=recipe(iterations=2), transform=SegmentationCrop(32, 32))
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    test.run(encoder, folder(halves), work)
    first = torch.load(tmp_path / "heads.pt", weights_only=True)["key"]
    encoder.norm.bias.data += 1
    test.run(encoder, folder(halves), work)
    assert torch.load(tmp_path / "heads.pt", weights_only=True)["key"] != first


def on_ranks(rank: int, root: str, store: str, world: int) -> None:
    torch.set_num_threads(1)
    file = dist.FileStore(f"{store}/store", world)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=world)
    torch.save(of_ranks(Path(root), Path(store) / "several"), f"{store}/{rank}.pt")
    dist.destroy_process_group()


def of_ranks(root: Path, kept: Path) -> dict:
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    chosen = recipe(
        lrs=(0.001, 0.05), iterations=6, batch_size=12, select="held out", eval_interval=3
    )
    test = protocol(recipe=chosen, transform=SegmentationCrop(32, 32))
    outcome = test.run(encoder, folder(root), replace(WORK, folder=kept))
    return {"tried": outcome.tried, "scores": outcome.scores, **outcome.evidence.tensors()}


@pytest.mark.slow
def test_two_ranks_find_what_one_does(halves: Path, tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # where the new processes find this file
    mp.spawn(on_ranks, (str(halves), str(tmp_path), 2), nprocs=2)
    one = of_ranks(halves, tmp_path / "one")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "several"))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (found["tried"], found["scores"]) == (one["tried"], one["scores"])
        for name in ("both", "truth", "predicted"):
            assert torch.equal(found[name], one[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": FeatureSpec((LayerSelection((4,)),))}, "layer 4 is asked"),
        ({"transform": SegmentationCrop(36, 36)}, "transform.size"),
        ({"test": SegmentationInference(short=36, window=36, stride=18)}, "test.window"),
        ({"test": SegmentationInference(short=32)}, "set inputs.fit"),
        ({"transform": SegmentationWhole()}, "cannot share a batch"),
        ({"split": "test"}, "no split 'test'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_once(halves: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        protocol(**changes).check(ViT("nano", 8, 32), folder(halves))


def test_data_without_masks_or_with_nameless_classes_are_refused(drawn: Path, halves: Path):
    with pytest.raises(ValueError, match="no masks"):
        protocol().check(OneHot(), ImageNet(str(drawn / "imagenet")))

    class Short(VOC2012):
        classes = VOC2012.classes[:-1]

    with pytest.raises(ValueError, match="hold class 20, but it names 20"):
        protocol().check(OneHot(), Short(str(drawn / "VOCdevkit")))
    with pytest.raises(ValueError, match="images -1"):
        protocol(images=-1)


def test_batches_without_any_label_are_survived(halves: Path, tmp_path: Path):
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
    outcome = protocol(recipe=recipe(iterations=4, batch_size=1)).run(OneHot(), folder(root), WORK)
    assert np.isfinite(outcome.scores["miou"])


def made(name: str, dataset: str, changes: dict) -> Protocol:
    settings = registry.find(name).on(dataset)
    settings = {**settings, "init_args": registry.merge(settings["init_args"], changes)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Protocol, "protocol")
    return parser.instantiate_classes(parser.parse_object({"protocol": settings})).protocol


SMALL = {"recipe": {"iterations": 2, "batch": 2, "every": 0}}
WINDOWS = {"test": {"short": 32, "window": 32, "stride": 21}}
CROP = {"transform": {"init_args": {"size": 32, "short_side": 32}}}
QUICK: dict[str, dict] = {
    **{name: {**SMALL, **WINDOWS, **CROP} for name in NAMES[:4]},
    "locat-mlp": {**SMALL, **CROP, "test": {"short": 32}},
    "patch100": {
        "recipe": {"epochs": 2, "batch": 2},
        "transform": {"init_args": {"size": 32}},
        "test": {"short": 32},
        "images": 2,
        "split": "train",
    },
}


@pytest.mark.parametrize("name", QUICK)
def test_every_protocol_runs_small_as_it_is_written(drawn: Path, name: str):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    changes = dict(QUICK[name])
    if name == "ibot-linear":
        changes["inputs"] = {"readings": [{"layers": [0, 1, 2, 3], "norm": True}]}
    data = VOC2012(str(drawn / "VOCdevkit"), num_workers=0, max_unreadable=0)
    test = made(name, "VOC2012", changes)
    test.check(encoder, data)
    assert 0 <= test.run(encoder, data, WORK).scores["miou"] <= 100


ASKED: dict[str, Callable[[DenseHeads], list]] = {
    "optimizer": lambda p: [p.recipe.optimizer, *p.recipe.lrs, p.recipe.weight_decay],
    "length": lambda p: [p.recipe.iterations, p.recipe.epochs, p.recipe.batch_size],
    "select": lambda p: [p.recipe.select, p.recipe.eval_interval],
    "head": lambda p: [p.layers.norm, p.layers.dropout, p.layers.hidden, p.layers.std],
    "features": lambda p: [p.inputs.readings[0].layers, p.inputs.readings[0].norm],
    "test": lambda p: [p.test.short, p.test.window, p.test.stride, p.test.average],
}
PUBLISHED = {
    "dinov2-linear": [
        *(["adamw", 1e-3, 1e-4], [40_000, 0, 16], ["last", 0], [True, 0, 0, 0.01]),
        *([(-1,), True], [512, 512, 341, "logits"]),
    ],
    "dinov2-linear-ms": [
        *(["adamw", 1e-3, 1e-4], [40_000, 0, 16], ["last", 0], [True, 0, 0, 0.01]),
        *([(-4, -3, -2, -1), True], [640, 640, 320, "logits"]),
    ],
    "dinov3-linear": [
        *(["adamw", 1e-3, 1e-3], [40_000, 0, 16], ["val", 5000], [True, 0.1, 0, 0.01]),
        *([(-1,), True], [512, 512, 341, "probabilities"]),
    ],
    "ibot-linear": [
        *(["adamw", 8e-4, 0.05], [160_000, 0, 16], ["last", 0], [False, 0, 0, 0.01]),
        *([(3, 5, 7, 11), True], [512, 512, 341, "logits"]),
    ],
    "locat-mlp": [
        *(["adamw", 1e-3, 0.01], [20_000, 0, 32], ["last", 0], [False, 0, 512, 0.01]),
        *([(-1,), False], [512, 0, 0, "logits"]),
    ],
    "patch100": [
        *(["sgd", 0.01, 1e-4], [0, 25, 128], ["val", 1], [False, 0, 0, 0.0]),
        *([(-1,), True], [448, 0, 0, "logits"]),
    ],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_protocols_say_what_was_published(name: str):
    test = made(name, "ADE20K", {})
    assert isinstance(test, DenseHeads)
    for (what, ask), value in zip(ASKED.items(), PUBLISHED[name], strict=True):
        assert ask(test) == value, what


def test_what_differs_by_dataset():
    voc = made("dinov2-linear", "VOC2012", {})
    assert isinstance(voc, DenseHeads)
    assert vars(voc.transform)["size"] == vars(voc.transform)["short_side"] == voc.test.window == 640
    assert vars(voc.transform)["ratio"] == (1.0, 3.0)
    small = made("patch100", "VOC2012", {})
    assert isinstance(small, DenseHeads)
    assert (small.split, small.test.pixels, small.test.square) == ("trainaug", 100, True)


@pytest.mark.parametrize("name", [*PUBLISHED, "linear-dino", "linear-grid"])
def test_every_file_is_short_and_says_where_it_is_from(name: str):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 40
    assert yaml.safe_load(text)["name"] == name
    assert "vitlab evaluate" in text
    assert "ublished" in text


def test_a_random_part_moves_image_and_mask_together():
    classes = np.random.default_rng(0).integers(0, 4, (6, 9)).repeat(8, 0).repeat(8, 1)
    image, mask = SegmentationRandomResizedCrop(48, (0.3, 1.0))(
        PALETTE[classes], classes.astype(np.uint8), 3
    )
    assert image.shape == (3, 48, 48)
    colors = torch.from_numpy(PALETTE)[mask.long()].permute(2, 0, 1)
    near = (image.float() - colors.float()).abs().amax(0) < 40
    assert near.float().mean() > 0.6  # the rest is where two colors meet
    again = SegmentationRandomResizedCrop(48, (0.3, 1.0))(
        PALETTE[classes], classes.astype(np.uint8), 3
    )
    assert torch.equal(image, again.image)
    narrow = SegmentationRandomResizedCrop(8, (1.0, 1.0))(
        PALETTE[classes[:2]], classes[:2].astype(np.uint8)
    )
    assert narrow.mask.shape == (8, 8)  # no part of that area has an allowed shape
    with pytest.raises(ValueError, match="range of shapes"):
        SegmentationRandomResizedCrop(ratio=(2.0, 1.0))


def test_it_is_evaluated_without_gradients_in_bf16_too(halves: Path):
    outcome = evaluate(OneHot(), protocol(precision="bf16"), folder(halves), WORK)
    assert outcome.scores["miou"] == 100.0
