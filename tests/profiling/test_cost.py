import csv
import json
from pathlib import Path

import pytest
import torch
from refusals import refused

from vitlab.encoders import Locality, Pixels, ViT
from vitlab.encoders.encoder import Encoder
from vitlab.errors import InputError
from vitlab.profiling import cost as costs
from vitlab.profiling.cost import OPTIONS, Passes, cost, with_options

TINY = ViT("nano", 8, 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(costs, "REPEATS", 1)


def passes(encoder: Encoder, size: int = 32, batch: int = 2) -> Passes:
    return Passes(encoder.eval(), torch.randn(batch, 3, size, size))


@pytest.mark.parametrize("option", OPTIONS)
def test_flops_are_those_of_the_specification(option):
    """ViT-S/16 at 224 px: linear maps and convolution, then attention by hand."""
    total, attention = passes(ViT("S", **OPTIONS[option]), 224, 1).flops()
    tokens = 197 + 4 * (option == "4 registers")
    linear = 8_481_669_120 + 4 * (option == "4 registers") * 12 * 2 * 12 * 384**2
    predictors = 12 * 196 * 6 * 2 * 64 * 3 * option.startswith("locality")
    refinement = 4 * tokens * 384 * (option == "locality, refined")
    assert attention - refinement == 12 * 4 * tokens**2 * 384
    assert total - attention == linear + predictors
    if option in ("plain", "entmax15", "specialized"):
        assert total == 9_196_996_608


def test_saved_bytes_count_what_a_linear_map_keeps_once():
    layer = torch.nn.Linear(3, 5)
    x = torch.randn(7, 3)
    weights = list(layer.parameters())

    def twice() -> torch.Tensor:
        return (layer(x) + layer(x)).sum()

    assert costs.saved_bytes(twice, weights) == x.nbytes
    assert costs.saved_bytes(twice, []) == x.nbytes  # x needs no gradient, so no weight is kept
    x.requires_grad_()
    assert costs.saved_bytes(twice, []) == x.nbytes + layer.weight.nbytes


def test_an_option_that_splits_weights_keeps_no_more_arithmetic():
    plain, split = (passes(ViT("nano", 8, 32, **OPTIONS[o])) for o in ("plain", "specialized"))
    assert split.parameters() > plain.parameters()
    assert split.flops() == plain.flops()


def test_a_bias_keeps_more_for_backward():
    plain, local = (passes(ViT("nano", 8, 32, **OPTIONS[o])) for o in ("plain", "locality"))
    assert local.saved() > plain.saved() > 0


def test_measuring_leaves_no_gradients():
    work = passes(ViT("nano", 8, 32))
    work.train()
    assert all(p.grad is None for p in work.encoder.parameters())


def test_a_single_encoder_is_measured_beside_its_options():
    named = with_options(("mine", ViT("nano", 8, 32, normalizer="entmax15", drop_path=0.1)))
    assert list(named) == list(OPTIONS)  # it is one of them
    other = ViT("nano", 8, 32, normalizer="entmax15", locality=Locality("gaussian"))
    assert list(with_options(("mine", other))) == [*OPTIONS, "mine"]
    assert all(isinstance(e, ViT) and e.patch_size == 8 for e in named.values())
    assert list(with_options(("mine", Pixels()))) == ["mine"]


def test_every_encoder_has_a_row_at_every_size(tmp_path, capsys):
    other = ViT("nano", 8, 32, num_registers=4)
    found = cost({"a": TINY, "b": other}, (32, 40), 2, "cpu", tmp_path / "new/cost.json")
    pairs = [("a", 32), ("b", 32), ("a", 40), ("b", 40)]
    assert [(row.encoder, row.size) for row in found] == pairs
    assert all(row.forward > 0 and row.training > 0 and row.saved > 0 for row in found)
    assert found[2].flops > found[0].flops > found[0].attention_flops > 0
    kept = json.loads((tmp_path / "new/cost.json").read_text())
    assert kept["surroundings"]["torch"] == torch.__version__
    assert kept["costs"][3]["parameters"] == found[3].parameters
    assert "attention's" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".md", ".csv"])
def test_other_endings_hold_the_same_rows(tmp_path, ending):
    cost({"a": TINY, "b": TINY}, [32], 1, "cpu", tmp_path / f"cost{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"cost{ending}"]
    content = (tmp_path / f"cost{ending}").read_text()
    if ending == ".csv":
        rows = list(csv.DictReader(content.splitlines()))
        assert [row["encoder"] for row in rows] == ["a", "b"]
        assert set(rows[0]) == set(costs.Cost.__annotations__)
    else:
        assert "- commit:" in content
        assert "| b | 32 |" in content


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("--batch-size", {"batch_size": 0}),
        (None, {"sizes": [30]}),
        (None, {"sizes": [0]}),
        ("--out", {"out": Path("cost.txt")}),
    ],
)
def test_bad_input_is_refused_before_any_work(field, given, monkeypatch):
    monkeypatch.setattr(costs, "measure", lambda *_: pytest.fail("measured"))
    with refused(field, kind=InputError if field else ValueError):
        cost({"a": TINY}, **given)
