"""Command lines from dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from refusals import refused

from vitlab.commands.parser import DATASET, POSITIONAL, SUBCLASS, parse
from vitlab.data import VisionDataModule
from vitlab.errors import InputError
from vitlab.probes import Probe


@dataclass(frozen=True)
class Options:
    """Measure encoders.

    Args:
        runs: folders of runs.
        weights: files, 100 % of them.
        num_nodes: machines.
        device: where to run.
        out: folder for the result.
        dry_run: check everything and stop.
        probe: class of the probe.
    """

    runs: list[Path] = field(metadata=POSITIONAL)
    weights: list[str]
    num_nodes: int = 1
    device: Literal["auto", "cpu"] = "auto"
    out: Path | None = None
    dry_run: bool = False
    probe: Probe | None = field(default=None, metadata=SUBCLASS)

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise InputError(f"--num-nodes {self.num_nodes}: use 1 or more", field="--num-nodes")


def read(text: str) -> Options:
    return parse(Options, text.split(), "vitlab try", "examples: none")


def test_fields_are_options():
    found = read("a b --weights x y --num-nodes 2 --dry-run --out o --device cpu")
    assert found == Options([Path("a"), Path("b")], ["x", "y"], 2, "cpu", Path("o"), True, None)
    assert read("a --weights x").out is None


def test_the_docstring_is_the_help(capsys):
    with pytest.raises(SystemExit) as end:
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for text in ("Measure encoders.", "machines", "100 % of", "--dry-run", "examples: none"):
        assert text in shown


@pytest.mark.parametrize("text", ["a", "--weights x", "a --weights x --num-nodes two", "a --n 1"])
def test_words_that_do_not_parse_end_with_code_2(text):
    with pytest.raises(SystemExit) as end:
        read(text)
    assert end.value.code == 2


def test_values_are_checked_by_the_dataclass():
    with refused("--num-nodes"):
        read("a --weights x --num-nodes 0")


@dataclass(frozen=True, kw_only=True)
class Base:
    """Options of several verbs.

    Args:
        seed: of all that is random.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Reads(Base):
    """Read a dataset.

    Args:
        arms: of the report.
        data: dataset.
    """

    arms: list[str] = field(metadata=POSITIONAL)
    data: VisionDataModule = field(metadata=DATASET)


def test_options_are_inherited_with_their_help(capsys):
    with pytest.raises(SystemExit):
        parse(Reads, ["--help"], "vitlab try")
    shown = " ".join(capsys.readouterr().out.split())
    assert "of all that is random" in shown
    assert "Options of several verbs" not in shown


@pytest.mark.parametrize("words", ["", "--data VOC2012", "--data.class_path=VOC2012"])
def test_a_dataset_is_recognized_by_its_root_or_named_anywhere(drawn, words):
    root = drawn / "VOCdevkit"
    given = ["a", "b", "--seed", "3", "--data.val_split", "val", f"--data.root={root}"]
    found = parse(Reads, [*given, *words.split()], "vitlab try")
    assert (found.arms, found.seed, type(found.data).__name__) == (["a", "b"], 3, "VOC2012")
    assert (str(found.data.root), found.data.val_split) == (str(root), "val")


@dataclass(frozen=True)
class Listing:
    """List runs.

    Args:
        root: folder of runs.
        state: only runs in these states.
    """

    root: Path = field(default=Path("runs"), metadata=POSITIONAL)
    state: list[Literal["lost", "failed"]] = field(default_factory=list)


def test_a_repeated_option_adds_values_and_a_positional_may_have_a_default():
    found = parse(Listing, ["--state", "lost", "--state", "failed"], "vitlab try")
    assert found == Listing(Path("runs"), ["lost", "failed"])
    assert parse(Listing, ["x"], "vitlab try") == Listing(Path("x"), [])
    with pytest.raises(SystemExit):
        parse(Listing, ["--state", "gone"], "vitlab try")
