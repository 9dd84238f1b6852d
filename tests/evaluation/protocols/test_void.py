"""Void, from which no protocol learns unless it says so, and which none scores."""

import pytest
from refusals import refused

from vitlab.encoders import Pixels
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.protocols import DenseKNN, FastDense, Hummingbird
from vitlab.evaluation.protocols.hummingbird import Quirks


@pytest.fixture(params=["heads", "memory", "neighbors", "fast"])
def protocol(request, dense):
    protocols = {"memory": Hummingbird(32, 0, 1, 2), "heads": dense(), "fast": FastDense(32)}
    return protocols.get(request.param, DenseKNN((1,), size=32))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_any_label_is_refused(make, context, monkeypatch, protocol, split: str):
    data = make(blank=(split,))
    with refused("data.root"):
        check(Pixels(8), protocol, data)
    monkeypatch.setattr("vitlab.evaluation.evaluate.check", lambda *_: [])
    with refused("data"):  # if it was not checked before
        evaluate(Pixels(8), protocol, data, context())


def test_void_that_is_learned_from_is_no_reason_to_refuse(make):
    quirks = Quirks(void="background")
    check(Pixels(8), Hummingbird(32, 0, 1, 2, quirks=quirks), make(blank=("train",)))
