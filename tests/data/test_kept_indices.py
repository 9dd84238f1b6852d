"""Indices of archives, and listings of whole data sets, are kept for the next run."""

import os

import numpy as np
import pytest

from vitlab.data import ADE20K, ImageNet
from vitlab.data.storage import ArchiveTree, listings, members

MEMBERS = {f"folder/{i}.bin": bytes([65 + i]) * (300 * i) for i in range(5)}


@pytest.fixture(autouse=True)
def indexed(eager, monkeypatch) -> list[str]:
    """Names of the archives that were read through."""
    found: list[str] = []
    for name in ("_tar_members", "_zip_members"):
        through = getattr(members, name)

        def watched(path, through=through):
            found.append(path.name)
            return through(path)

        monkeypatch.setattr(members, name, watched)
    return found


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_is_read_through_once(tmp_path, pack, indexed, kind):
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    for _ in range(3):
        files = ArchiveTree([(path, "at")])
        assert {name: files.read(f"at/{name}") for name in MEMBERS} == MEMBERS
    assert indexed == [path.name]
    assert (tmp_path / f".vitlab/x.{kind}.npz").is_file()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_has_changed_is_read_through_again(tmp_path, pack, indexed, kind):
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    ArchiveTree([(path, "")])
    for other in ({"1.bin": b"a"}, {"1.bin": b"b"}, {"2.bin": b"c"}):
        getattr(pack, kind)(path, other)
        files = ArchiveTree([(path, "")])
        assert {name: files.read(name) for name in other} == other
    assert len(indexed) == 4


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_of_the_same_size_and_another_time_is_read_through_again(
    tmp_path, pack, indexed, kind
):
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    ArchiveTree([(path, "")])
    os.utime(path, ns=(0, 0))
    ArchiveTree([(path, "")])
    assert len(indexed) == 2


def test_a_damaged_index_is_made_again_and_someone_says_so(tmp_path, pack, indexed):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    ArchiveTree([(path, "")])
    kept = tmp_path / ".vitlab/x.tar.npz"
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"x\.tar\.npz cannot be used and is made again"):
        files = ArchiveTree([(path, "")])
    assert {name: files.read(name) for name in MEMBERS} == MEMBERS
    ArchiveTree([(path, "")])
    assert len(indexed) == 2


def test_an_archive_on_a_read_only_disk_has_its_index_in_the_users_cache(
    tmp_path, pack, indexed, cache
):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    (tmp_path / ".vitlab").touch()
    with pytest.warns(UserWarning, match=rf"cannot be written .* kept in {cache}"):
        ArchiveTree([(path, "")])
    ArchiveTree([(path, "")])
    assert indexed == ["x.tar"]


def test_a_second_run_on_a_data_set_looks_nothing_up(imagenet, monkeypatch):
    first = ImageNet(str(imagenet))
    samples = {split: first.samples(split) for split in first.splits}
    ImageNet(str(imagenet)).samples("train")  # the root, which has a folder more now
    scans: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(
        listings.os, "scandir", lambda folder: scans.append(folder) or scandir(folder)
    )
    again = ImageNet(str(imagenet))
    for split, expected in samples.items():
        assert np.array_equal(again.samples(split).images, expected.images)
        assert np.array_equal(again.samples(split).labels, expected.labels)
    # patterns of archives are looked for, but no class folder is read again
    assert not [folder for folder in scans if os.path.basename(folder).startswith("n")]


def test_a_new_image_is_found_in_the_next_run(ade, draw, stripe):
    assert len(ADE20K(str(ade)).samples("val")) == 2
    folder = ade / "ADEChallengeData2016"
    draw(folder / "images/validation/ADE_val_00000003.jpg")
    stripe(folder / "annotations/validation/ADE_val_00000003.png", [1])
    assert len(ADE20K(str(ade)).samples("val")) == 3
    (folder / "images/validation/ADE_val_00000001.jpg").unlink()
    assert len(ADE20K(str(ade)).samples("val")) == 2
