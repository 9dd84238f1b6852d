"""A folder, a tar and a zip with the same files are the same tree."""

import os
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitlab.data.storage import (
    ArchiveTree,
    FileTree,
    FolderTree,
    Listing,
    MemoryTree,
    OverlayTree,
)

# "-" and "." sort before "/", "0" and "é" after it
TRAPS = ["a", "a-b", "a.b", "a0", "a b", "aé", "é", "日本", ".hidden", "b", "B", "~"]
NAMES = st.sampled_from(TRAPS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: name not in {".", ".."} and not name.endswith(".tar"))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def without_conflicts(members: dict[str, bytes]) -> dict[str, bytes]:
    """No name is both a file and a folder."""
    folders = {str(folder) for path in members for folder in PurePosixPath(path).parents}
    return {path: content for path, content in members.items() if path not in folders}


TREES = st.dictionaries(PATHS, st.binary(max_size=20), min_size=1, max_size=12).map(
    without_conflicts
)


def write(folder: Path, members: dict[str, bytes]) -> Path:
    for path, content in members.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def expected_listing(members: dict[str, bytes], place: str) -> Listing | None:
    """What a folder holds, worked out from the names alone."""
    prefix = f"{place}/" if place else ""
    inside = [path.removeprefix(prefix) for path in members if path.startswith(prefix)]
    shown = [path for path in inside if not path.startswith(".")]
    folders = {path.split("/")[0] for path in shown if "/" in path}
    names = {path for path in shown if "/" not in path}
    return Listing(sorted(folders), sorted(names)) if inside else None


def assert_holds(files: FileTree, members: dict[str, bytes]) -> None:
    folders = {""} | {str(f) for path in members for f in PurePosixPath(path).parents} - {"."}
    for folder in [*folders, *(f"{folder}x" for folder in folders), *members]:
        assert files.listing(folder) == expected_listing(members, folder)
        if folder in folders:
            part = files.below(folder)
            assert part.listing() == files.listing(folder)
            head, _, tail = folder.partition("/")
            assert files.below(head).below(tail).listing() == files.listing(folder)
    for path, content in members.items():
        assert files.read(path) == content
        parent, _, name = path.rpartition("/")
        assert files.below(parent).read(name) == content
        assert files.has(path)  # hidden ones are not listed, but can be named
        assert files.where(path).endswith(name)
        for wrong in (f"{path}x", f"x{path}"):
            if wrong not in members:
                assert not files.has(wrong)
                with pytest.raises(FileNotFoundError):
                    files.open(wrong)


@settings(deadline=None, max_examples=40)
@given(TREES, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_a_tar_holds_what_was_packed(pack, members, format):
    with tempfile.TemporaryDirectory() as folder:
        path = pack.tar(Path(folder) / "x.tar", members, format)
        assert_holds(ArchiveTree([(path, "")]), members)


@settings(deadline=None, max_examples=40)
@given(TREES, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_a_zip_holds_what_was_packed(pack, members, packing):
    with tempfile.TemporaryDirectory() as folder:
        path = pack.zip(Path(folder) / "x.zip", members, packing)
        assert_holds(ArchiveTree([(path, "")]), members)


@settings(deadline=None, max_examples=40)
@given(TREES)
def test_a_folder_holds_what_was_written(members):
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(FolderTree(write(Path(folder), members)), members)


@settings(deadline=None, max_examples=40)
@given(TREES, st.randoms(use_true_random=False))
def test_parts_in_folders_and_archives_make_one_tree(pack, members, random):
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # the hidden files stay where reading finds them; each part has a file or more
        parts: list[dict[str, bytes]] = [{}, {}, {}]
        for path, content in members.items():
            parts[random.randrange(3)][path] = content
        (home / "open").mkdir()
        trees: list[FileTree] = [FolderTree(write(home / "open", parts[0]))]
        if parts[1]:
            trees.append(ArchiveTree([(pack.tar(home / "x.tar", parts[1]), "")]))
        if parts[2]:
            trees.append(ArchiveTree([(pack.zip(home / "x.zip", parts[2]), "")]))
        assert_holds(OverlayTree(*trees), members)


def test_members_go_to_the_folder_that_is_named(tmp_path, pack):
    first = pack.tar(tmp_path / "one.tar", {"a/1": b"1", "2": b"2"})
    second = pack.zip(tmp_path / "two.zip", {"3": b"3"})
    files = ArchiveTree([(first, "train"), (second, "val/x")])
    assert_holds(files, {"train/a/1": b"1", "train/2": b"2", "val/x/3": b"3"})


def test_of_a_file_in_two_trees_that_of_the_first_counts(tmp_path, pack):
    one = pack.tar(tmp_path / "one.tar", {"a": b"1", "b": b"1"})
    two = pack.tar(tmp_path / "two.tar", {"b": b"2", "c": b"2"})
    assert_holds(ArchiveTree([(one, ""), (two, "")]), {"a": b"1", "b": b"1", "c": b"2"})
    both = OverlayTree(ArchiveTree([(two, "")]), ArchiveTree([(one, "")]))
    assert_holds(both, {"a": b"1", "b": b"2", "c": b"2"})
    assert both.where("b") == f"{two}:b"
    assert both.where("a") == f"{one}:a"


def test_names_that_are_no_utf8_survive(tmp_path, pack):
    name = os.fsdecode(b"caf\xe9.jpg")
    packed = ArchiveTree([(pack.tar(tmp_path / "x.tar", {name: b"1"}), "")])
    unpacked = FolderTree(write(tmp_path / "open", {name: b"1"}))
    assert packed.listing() == unpacked.listing() == Listing([], [name])
    assert packed.read(name) == unpacked.read(name) == b"1"


def test_an_empty_folder_is_listed_and_a_missing_one_is_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    files = FolderTree(tmp_path)
    assert files.listing("empty") == Listing()
    assert files.listing("nothing") is None
    assert files.listing("file") is None
    assert files.listing("file/deeper") is None


def test_a_link_that_is_no_folder_counts_as_a_file(tmp_path):
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "file").touch()
    (tmp_path / "linked").symlink_to("file")
    files = FolderTree(tmp_path)
    assert files.listing() == Listing(["up"], ["file", "itself", "linked", "nowhere"])
    assert files.listing("itself") is files.listing("nowhere") is files.listing("linked") is None
    assert files.listing("itself/deeper") is None
    assert files.read("linked") == b""
    with pytest.raises(OSError, match="symbolic links"):
        files.read("itself")
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")


def test_files_in_memory_are_a_tree_without_folders():
    files = MemoryTree({"a": b"1", "b": b"2"}, "archive")
    assert_holds(files, {"a": b"1", "b": b"2"})
    assert files.where("a") == "archive:a"
