"""A folder, a tar and a zip with the same files are the same tree."""

import os
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitlab.data.storage import ArchiveTree, FileTree, FolderTree, MemoryTree, OverlayTree
from vitlab.terminal import printable

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


def expected_listing(members: dict[str, bytes], place: str) -> tuple | None:
    """What a folder holds, worked out from the names alone."""
    prefix = f"{place}/" if place else ""
    inside = [path.removeprefix(prefix) for path in members if path.startswith(prefix)]
    shown = [path for path in inside if not path.startswith(".")]
    folders = {path.split("/")[0] for path in shown if "/" in path}
    names = {path for path in shown if "/" not in path}
    return (sorted(folders), sorted(names)) if inside else None


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
        assert files.where(path).endswith(printable(name))
        for wrong in (f"{path}x", f"x{path}"):
            if wrong not in members:
                assert not files.has(wrong)
                with pytest.raises(FileNotFoundError):
                    files.open(wrong)


@settings(max_examples=40)
@given(
    TREES,
    st.randoms(use_true_random=False),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_a_folder_a_tar_and_a_zip_hold_the_same_and_parts_of_them_make_one_tree(
    pack, members, random, format, packing
):
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        assert_holds(FolderTree(write(home / "whole", members)), members)
        tar = pack.tar(home / "whole.tar", members, format)
        assert_holds(ArchiveTree([(tar, "")]), members)
        inside = {f"val/x/{path}": content for path, content in members.items()}
        zipped = pack.zip(home / "whole.zip", members, packing)
        assert_holds(ArchiveTree([(zipped, "val/x")]), inside)
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


def test_of_a_file_in_two_trees_that_of_the_first_counts(tmp_path, pack):
    one = pack.tar(tmp_path / "one.tar", {"a": b"1", "b": b"1"})
    two = pack.tar(tmp_path / "two.tar", {"b": b"2", "c": b"2"})
    assert_holds(ArchiveTree([(one, ""), (two, "")]), {"a": b"1", "b": b"1", "c": b"2"})
    both = OverlayTree(ArchiveTree([(two, "")]), ArchiveTree([(one, "")]))
    assert_holds(both, {"a": b"1", "b": b"2", "c": b"2"})
    assert both.where("b") == f"{two}:b"
    assert both.where("a") == f"{one}:a"
    memory = MemoryTree({"a": b"1", "b": b"2"}, "archive")
    assert_holds(memory, {"a": b"1", "b": b"2"})
    assert memory.where("a") == "archive:a"


def test_names_that_are_no_utf8_survive(tmp_path, pack):
    name = os.fsdecode(b"caf\xe9.jpg")
    packed = ArchiveTree([(pack.tar(tmp_path / "x.tar", {name: b"1"}), "")])
    unpacked = FolderTree(write(tmp_path / "open", {name: b"1"}))
    assert packed.listing() == unpacked.listing() == ([], [name])
    assert packed.read(name) == unpacked.read(name) == b"1"


def test_a_link_that_is_no_folder_counts_as_a_file(tmp_path):
    links = {"itself": "itself", "nowhere": "missing", "up": "..", "linked": "file"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    files = FolderTree(tmp_path)
    assert files.listing() == (["empty", "up"], ["file", "itself", "linked", "nowhere"])
    assert files.listing("empty") == ([], [])
    for missing in ("itself", "nowhere", "linked", "missing", "file", "file/x", "itself/x"):
        assert files.listing(missing) is None
    assert files.read("linked") == b""
    os.mkfifo(tmp_path / "pipe\n")  # waits for ever
    for name, word in (("itself", "symbolic links"), ("pipe\n", "pipe or device")):
        with pytest.raises(OSError, match=word):
            files.read(name)
    assert files.where("pipe\n") == rf"{tmp_path}/pipe\n"
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")
