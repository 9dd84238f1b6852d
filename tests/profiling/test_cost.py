"""Costs of encoders against hand counts; timing of calls; bad input."""

import csv
import json
from pathlib import Path

import pytest
import torch
from refusals import refused
from rich.table import Table

from vitlab.encoders import Encoder, Locality, Pixels, ViT
from vitlab.errors import InputError
from vitlab.profiling import cost as costs
from vitlab.profiling.cost import OPTIONS, Passes, cost, with_options
from vitlab.profiling.timing import fastest, markdown, page

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


def test_options_cost_what_they_add_and_measuring_leaves_no_gradients():
    kinds = ("plain", "specialized", "locality")
    plain, split, local = (passes(ViT("nano", 8, 32, **OPTIONS[kind])) for kind in kinds)
    assert split.parameters() > plain.parameters()
    assert split.flops() == plain.flops()
    assert local.saved() > plain.saved() > 0
    plain.train()
    assert all(p.grad is None for p in plain.encoder.parameters())


def test_a_single_encoder_is_measured_beside_its_options():
    named = with_options(("mine", ViT("nano", 8, 32, normalizer="entmax15", drop_path=0.1)))
    assert list(named) == list(OPTIONS)  # it is one of them
    other = ViT("nano", 8, 32, normalizer="entmax15", locality=Locality("gaussian"))
    assert list(with_options(("mine", other))) == [*OPTIONS, "mine"]
    assert all(isinstance(e, ViT) and e.patch_size == 8 for e in named.values())
    assert list(with_options(("mine", Pixels()))) == ["mine"]


@pytest.mark.parametrize("ending", [".json", ".md", ".csv"])
def test_every_encoder_has_a_row_at_every_size(tmp_path, capsys, ending):
    other, out = ViT("nano", 8, 32, num_registers=4), tmp_path / f"new/cost{ending}"
    found = cost({"a": TINY, "b": other}, (32, 40), 2, "cpu", out)
    pairs = list(zip(found["encoder"], found["size"], strict=True))
    assert pairs == [("a", 32), ("b", 32), ("a", 40), ("b", 40)]
    assert (found[["forward", "training", "saved"]] > 0).all(axis=None)
    assert found["flops"][2] > found["flops"][0] > found["attention_flops"][0] > 0
    assert "attention's" in capsys.readouterr().out
    text = out.read_text()
    if ending == ".json":
        assert json.loads(text)["surroundings"]["torch"] == torch.__version__
        assert json.loads(text)["costs"][3]["parameters"] == found["parameters"][3]
    elif ending == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert [row["encoder"] for row in rows] == ["a", "b", "a", "b"]
        assert list(rows[0]) == list(found)
    else:
        assert "- commit:" in text
        assert f" {found['parameters'][1]:,} |" in text
        rows = [line for line in text.splitlines() if "| a" in line]
        assert [row.endswith(" 1.000 |") for row in rows] == [True] * 2


def test_bad_input_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(costs, "measure", lambda *_: pytest.fail("measured"))
    sizes = [(None, {"sizes": [size]}) for size in (30, 0)]
    others = [("--batch-size", {"batch_size": 0}), ("--out", {"out": Path("cost.txt")})]
    for field, given in (*sizes, *others):
        with refused(field, kind=InputError if field else ValueError):
            cost({"a": TINY}, **given)


def test_calls_take_turns_after_a_warm_up(monkeypatch):
    order, now = [], iter(range(100))
    monkeypatch.setattr("vitlab.profiling.timing.time.perf_counter", lambda: next(now) / 1000)
    times = fastest([lambda: order.append("a"), lambda: [next(now) for _ in order]], 2)
    assert order == ["a"] * 3
    assert times == pytest.approx([1, 1 + 2])  # the second calls are slower each time


def test_a_page_says_where_it_was_measured_and_has_tables():
    table = Table("what", title="title", caption="caption")
    table.add_column("ms", justify="right")
    table.add_row("a", "1.20")
    text = page("Benchmarks", [markdown(table)])
    for fact in ("command", "commit", "CPU", "GPU", "torch", "date"):
        assert f"- {fact}: " in text
    assert "**title**" in text
    assert "| a      | 1.20 |" in text
    assert text.endswith("\n\ncaption\n")
