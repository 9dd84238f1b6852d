"""The files of these protocols against what was published, value by value."""

from itertools import pairwise
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

import vitlab.evaluation.protocols  # noqa: F401, the parser finds classes once imported
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.evaluation.protocol import Protocol
from vitlab.evaluation.protocols.hummingbird import Quirks
from vitlab.evaluation.registry import find
from vitlab.probes import DenseProbe
from vitlab.probes.layer_selection import LayerSelection

FOLDER = Path(__file__).parents[3] / "configs/protocols"


def build(name: str, data: str = "VOC2012"):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Protocol, "protocol")
    given = parser.parse_object({"protocol": find(str(FOLDER / f"{name}.yaml")).on(data)})
    return parser.instantiate_classes(given).protocol


def test_knn_is_dinos():
    knn = build("knn", "ImageNet")
    assert (knn.k, knn.ks, knn.temperature, knn.size) == (20, (10, 20, 100, 200), 0.07, 224)
    assert knn.reading == LayerSelection((-1,), True)


def test_capis_neighbors_are_the_released_ones():
    capi = build("capi-knn", "ADE20K")
    assert (capi.ks, capi.metrics, capi.transfer) == ((1, 3, 10, 30), ("cosine", "l2"), "pixels")
    assert capi.settings[:3] == ["k 1, cosine", "k 1, l2", "k 3, cosine"]
    assert (capi.size, capi.held_out, capi.reading) == (224, 0.1, LayerSelection())


def test_capis_strengths_are_eight_steps_from_a_millionth():
    capi = build("capi-logreg", "ADE20K")
    strengths = [float(strength) for strength in capi.strengths]
    assert len(strengths) == 8
    assert (strengths[0], strengths[-1]) == pytest.approx((1e-6, 1e5))
    ratios = [b / a for a, b in pairwise(strengths)]
    assert ratios == pytest.approx([10 ** (11 / 7)] * 7)
    assert (capi.iterations, capi.history, capi.size, capi.held_out) == (1000, 5, 224, 0.1)


@pytest.mark.parametrize("name", ["hummingbird", "hummingbird-compat"])
def test_hummingbird_is_the_published_one(name):
    found = build(name)
    assert (found.size, found.memory, found.passes) == (512, 10_240_000, 2)
    assert (found.neighbors, found.temperature) == (30, 0.02)


def test_quirks_are_left_out_or_all_there():
    assert build("hummingbird").quirks == Quirks()
    quirks = build("hummingbird-compat").quirks
    assert quirks == Quirks((0.5, 2.0), False, "background", 0.255, True)
    assert build("hummingbird-compat", "ADE20K").quirks.void == "class"


def test_the_fast_protocol_is_what_the_callback_does_by_default():
    fast, callback, dense = build("vitlab-fast"), OnlineProbes(), DenseProbe(2)
    assert (fast.size, fast.images) == (callback.dense_size, callback.dense_images)
    assert (fast.decay, fast.steps) == (dense.weight_decay, dense.steps)


@pytest.mark.parametrize("name", ["knn", "capi-knn", "capi-logreg", "hummingbird", "vitlab-fast"])
def test_files_are_short(name):
    assert len((FOLDER / f"{name}.yaml").read_text().splitlines()) <= 40
