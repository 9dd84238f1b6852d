"""Command lines from dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from refusals import refused
from runs import refusal

from vitlab.commands.parser import DATASET, POSITIONAL, call, parse
from vitlab.data import VisionDataModule
from vitlab.errors import InputError, UsageError
from vitlab.probes import Probe


@dataclass(frozen=True, kw_only=True)
class Base:
    """Options of several verbs.

    Args:
        seed: of all that is random.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Measure encoders.

    Args:
        runs: folders of runs.
        weights: files, 100 % of them.
        device: where to run.
        states: only these.
        dry_run: check everything and stop.
    """

    runs: list[Path] = field(metadata=POSITIONAL)
    weights: list[str]
    num_nodes: int = 1
    device: Literal["auto", "cpu"] = "auto"
    out: Path | None = None
    states: list[Literal["lost", "failed"]] = field(default_factory=list)
    dry_run: bool = False
    probe: Probe | None = field(default=None, metadata={"subclass": "vitlab.probes.Probe"})

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise InputError(f"--num-nodes {self.num_nodes}: use 1 or more", field="--num-nodes")


def read(text: str) -> Options:
    return parse(Options, text.split(), "vitlab try", "examples: none")


def test_fields_are_options_those_of_the_base_as_well():
    found = read("a b --weights x y --num-nodes 2 --dry-run --out o --device cpu --seed 3")
    expected = {"runs": [Path("a"), Path("b")], "weights": ["x", "y"], "num_nodes": 2, "seed": 3}
    assert found == Options(**expected, device="cpu", out=Path("o"), dry_run=True)
    repeated = read("a --weights x --weights y --states lost --states failed")
    assert (repeated.weights, repeated.states) == (["x", "y"], ["lost", "failed"])
    assert repeated.out is None


def test_the_docstring_is_the_help(capsys):
    refusal(read, "--help", code=0)
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("Measure encoders.", "where to run", "100 % of", "--dry-run", "examples: none"):
        assert text in shown
    assert "of all that is random" in shown
    assert "Options of several verbs" not in shown


def test_words_that_do_not_parse_are_refused_and_values_are_checked_by_the_dataclass():
    for wrong in ("a", "--weights x", "a --weights x --num-nodes two", "a --weights x --states y"):
        with pytest.raises(UsageError):
            read(wrong)
    with refused("--num-nodes"):
        read("a --weights x --num-nodes 0")


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Read a dataset."""

    arms: list[str] = field(metadata=POSITIONAL)
    data: VisionDataModule = field(metadata=DATASET)


@pytest.mark.parametrize("words", ["", "--data VOC2012", "--data.class_path=VOC2012"])
def test_a_dataset_is_recognized_by_its_root_or_named_anywhere(drawn, words):
    root = drawn / "VOCdevkit"
    given = ["a", "b", "--data.val_split", "val", f"--data.root={root}"]
    found = parse(Reads, [*given, *words.split()], "vitlab try")
    assert (found.arms, type(found.data).__name__) == (["a", "b"], "VOC2012")
    assert (str(found.data.root), found.data.val_split) == (str(root), "val")


@dataclass(frozen=True)
class Listing:
    """List runs."""

    root: Path = field(default=Path("runs"), metadata=POSITIONAL)


def test_a_positional_may_have_a_default_and_a_function_be_a_command():
    assert parse(Listing, [], "vitlab try") == Listing(Path("runs"))
    assert parse(Listing, ["x"], "vitlab try") == Listing(Path("x"))

    def function(root: Path, sizes: tuple[int, ...] = (1, 2), deep: bool = False) -> tuple:
        """Call it."""
        return root, sizes, deep

    assert call(function, ["--root", "x"], "vitlab try") == (Path("x"), (1, 2), False)
    words = ["--root", "x", "--sizes", "3", "--deep"]
    assert call(function, words, "vitlab try") == (Path("x"), (3,), True)
