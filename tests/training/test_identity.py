"""A run goes on with the data, packages and hardware it began with, or it is said."""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from refusals import refused
from runs import read

from vitlab.data import Folder
from vitlab.run.run_dir import ResumePoint
from vitlab.training.cli import FitCLI
from vitlab.training.identity import FILE, RunIdentity, compare_identity, record_environment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images, whose bytes nobody decodes."""
    for split in ("train", "val"):
        for kind in "ab":
            for name in "123":
                path = tmp_path / "data" / split / kind / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{split} {kind} {name}")
    return tmp_path / "data"


def changed(root: Path, change: Callable[[Path], object]) -> set[str]:
    """Return the parts of the identity that a change of the training split changes."""
    found = []
    for place in (root, Path(shutil.copytree(root, root.with_name("other")))):
        if place != root:
            change(place / "train")
        data = Folder(str(place))
        data.samples("train")
        found.append(data.identity())
    before, after = found
    assert before.keys() == after.keys()
    return {name.removeprefix("train ") for name in before if before[name] != after[name]}


FILES = {"images", "names", "sizes", "labels", "contents"}
CHANGES = {
    "nothing but the root": (lambda _: None, set()),
    "validation": (lambda train: (train.parent / "val/a/1.png").unlink(), set()),
    "added": (lambda train: (train / "b/4.png").write_text("train b 4"), FILES),
    "removed": (lambda train: (train / "b/3.png").unlink(), FILES),
    "renamed": (lambda train: (train / "b/3.png").rename(train / "b/4.png"), {"names"}),
    "replaced": (lambda train: (train / "a/2.png").write_text("long"), {"sizes", "contents"}),
    "as long": (lambda train: (train / "a/2.png").write_text("train b 2"), {"contents"}),
    "relabelled": (
        lambda train: (train / "b/1.png").rename(train / "a/9.png"),
        {"names", "labels"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_change_have_another_identity(root, change):
    make, parts = CHANGES[change]
    assert changed(root, make) == parts


def going_on(folder: Path, allow: bool = False) -> Mock:
    start = ResumePoint(folder / "last.ckpt", step=7)
    return Mock(spec=FitCLI, folder=folder, start=start, config=Namespace(allow_changes=allow))


BEGAN = RunIdentity({"data train labels": "ab", "pillow": "11"}, {"threads": "1"}, ["step 3: x"])


@pytest.mark.parametrize(
    ("decisive", "rounding", "said"),
    [
        ({"pillow": "11", "data val names": "new"}, {"threads": "1"}, ""),  # other probes
        ({"pillow": "12"}, {"threads": "1"}, "pillow 12 instead of 11"),
        ({"data train labels": "cd"}, {}, "other data train labels"),
        ({"pillow": "11"}, {"threads": "2"}, "threads 2 instead of 1"),
    ],
)
def test_what_decides_the_result_is_refused_or_allowed_and_what_rounds_is_said(
    tmp_path, capsys, decisive, rounding, said
):
    record_environment(tmp_path, BEGAN)
    now = RunIdentity(decisive, rounding)
    if said and rounding.get("threads") != "2":
        with refused("--allow-changes"):
            compare_identity(going_on(tmp_path), now)
    found = compare_identity(going_on(tmp_path, allow=True), now)
    assert found.changes == ["step 3: x", *([f"step 7: {said}"] if said else [])]
    assert (f"going on with {said}" if said else "") in capsys.readouterr().err
    record_environment(tmp_path, found)
    assert compare_identity(going_on(tmp_path), now).changes == found.changes  # said once
    assert not capsys.readouterr().err


def test_a_run_without_a_record_goes_on_and_a_damaged_record_is_refused(tmp_path):
    assert compare_identity(going_on(tmp_path), BEGAN) == BEGAN
    (tmp_path / FILE).write_text(json.dumps({"packages": {}}))  # of an older run
    assert compare_identity(going_on(tmp_path), BEGAN).decisive == BEGAN.decisive
    (tmp_path / FILE).write_text("[")
    with refused(FILE):
        compare_identity(going_on(tmp_path), BEGAN)
    elsewhere = going_on(tmp_path / "other")
    elsewhere.start = ResumePoint(tmp_path / "last.ckpt", step=7)  # another run's weights
    assert compare_identity(elsewhere, BEGAN) == BEGAN


def test_a_run_keeps_its_identity(fit):
    folder = fit("--trainer.max_epochs", "1", "--probing.pictures", "0")
    identity = read(folder / FILE)["identity"]
    assert identity["decisive"]["data train images"] == "48"
    assert {"data val names", "voc2012 val masks", "pillow"} <= identity["decisive"].keys()
    assert {"threads", "device", "devices", "torch"} <= identity["rounding"].keys()
