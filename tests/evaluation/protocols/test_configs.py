"""Settings of the named protocols, pinned by their hashes; and each of them run small."""

import pytest
import torch

from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.commands.evaluate import parse
from vitlab.config_files import protocol_names
from vitlab.encoders import ViT
from vitlab.evaluation.protocols import DenseLogistic, FastDense
from vitlab.probes import DenseProbe

DENSE = ("VOCdevkit", "ADEChallengeData2016", "cityscapes")
# of the values that were published, each read in its paper or code; where VOC or ADE20K differ
# from the other datasets, theirs come first
HASHES = {
    "knn": ("03957e3c056f",),
    "linear-dino": ("725b38daddd3",),
    "linear-grid": ("4ef9bf54ac61",),
    "capi-knn": ("c5f72d0cfdb7",) * 3,
    "capi-logreg": ("c9f594400f2e",) * 3,
    "dinov2-linear": ("67e23e80868a", *("19d18ae53e07",) * 2),
    "dinov2-linear-ms": ("ec7980f997aa",) * 3,
    "dinov3-linear": ("2d0319d0f4dd",) * 3,
    "hummingbird": ("360b2bb21949",) * 3,
    "hummingbird-compat": ("1e879efbca99", "e2f2316908c7", "1e879efbca99"),
    "ibot-linear": ("7a36b7ad9785",) * 3,
    "locat-mlp": ("47a5e2ea955e",) * 3,
    "patch100": ("82a56c03eab0", *("1d5dee0cbf2f",) * 2),
    "vitlab-fast": ("cb00f8616893",) * 3,
}


def asked(name, root, *changes):
    words = [word if i % 2 else f"--protocol.{word}" for i, word in enumerate(changes)]
    base = ["--weights", "none", "--protocol", name, "--data.root", str(root)]
    return parse([*base, "--num-workers", "0", *words])


@pytest.mark.parametrize("name", HASHES)
def test_settings_are_those_that_were_published(drawn, name):
    roots = DENSE if len(HASHES[name]) == 3 else ("imagenet",)
    for root, expected in zip(roots, HASHES[name], strict=True):
        _, info = asked(name, drawn / root)
        assert (info.hash, info.changed) == (expected, {})


def test_defaults_agree_with_those_of_other_places():
    assert set(HASHES) == set(protocol_names())
    fast, callback, dense = FastDense(), OnlineProbes(), DenseProbe(2)
    assert (fast.size, fast.max_train_images) == (callback.dense_size, callback.dense_images)
    assert (fast.weight_decay, fast.tolerance) == (dense.weight_decay, dense.tolerance)
    strengths = [strength for _, strength in DenseLogistic().settings]
    assert strengths == pytest.approx([10 ** (-6 + 11 * i / 7) for i in range(8)])


CROP = ("transform.size", "32", "transform.short_side", "32")
SHORT = ("inference.short", "32")
TWO = ("recipe.iterations", "2", "recipe.batch_size", "2", "recipe.eval_interval", "0")
WINDOW = ("inference.window", "32", "inference.stride", "21")
IMAGE = ("transform.size", "32", "size", "32", "recipe.batch_size", "8")
FEW = ("recipe.epochs", "1", "recipe.batch_size", "2", "train_split", "train")
FOUR = ("features.layer_selections", "[{layers: [0, 1, 2, 3]}]")
RUNS = {
    "linear-dino": (*IMAGE, "recipe.epochs", "2"),
    "linear-grid": (*IMAGE, "recipe.iterations", "3"),
    "dinov2-linear": (*CROP, *TWO, *SHORT, *WINDOW),
    "dinov2-linear-ms": (*CROP, *TWO, *SHORT, *WINDOW),
    "dinov3-linear": (*CROP, *TWO, *SHORT, *WINDOW),
    "ibot-linear": (*CROP, *TWO, *SHORT, *WINDOW, *FOUR),
    "locat-mlp": (*CROP, *TWO, *SHORT),
    "patch100": (*FEW, *SHORT, "max_val_images", "2", "transform.size", "32"),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_protocol_of_trained_heads_runs_small_as_it_is_written(drawn, context, name: str):
    torch.manual_seed(0)
    encoder = ViT("nano", 8, 32).eval()
    root = "imagenet" if name in ("linear-dino", "linear-grid") else "VOCdevkit"
    args, info = asked(name, drawn / root, *RUNS[name])
    assert len(info.changed) > 3
    args.protocol.check(encoder, args.data)
    outcome = args.protocol.run(encoder, args.data, context())
    assert 0 <= outcome.scores[outcome.headline] <= 100
    assert outcome.chosen_on == ("val" if name in ("linear-dino", "linear-grid") else "")
    assert len(outcome.tried) == {"linear-grid": 52, "linear-dino": 2}.get(name, 1)
