"""Archives in use: large ones, many at once, in other processes."""

import os
import pickle
import zipfile
from multiprocessing.pool import ThreadPool

import pytest

from vitlab.data.storage import ArchiveTree
from vitlab.data.storage import archive_tree as module

MEMBERS = {f"folder/{i}.bin": bytes([65 + i]) * (300 * i) for i in range(5)}


def test_a_zip_with_fields_of_64_bits_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in MEMBERS.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    files = ArchiveTree([(tmp_path / "x.zip", "")])
    assert {name: files.read(name) for name in MEMBERS} == MEMBERS


@pytest.mark.slow  # a second or two for the system, more on slow disks
def test_members_beyond_four_gigabytes_are_found(tmp_path, pack):
    path = pack.zip(tmp_path / "x.zip", {"a.bin": b"first"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.fp.seek(5 << 30)  # a hole, which takes no space
        archive.start_dir = archive.fp.tell()
        archive.writestr("b.bin", b"far away")
    assert path.stat().st_size > 5 << 30
    files = ArchiveTree([(path, "")])
    assert (files.read("a.bin"), files.read("b.bin")) == (b"first", b"far away")


def test_more_archives_than_may_be_open_are_read_in_any_order(tmp_path, pack, monkeypatch):
    monkeypatch.setattr(module, "OPEN", 3)
    sources = [(pack.tar(tmp_path / f"{i}.tar", {"x.bin": bytes([i])}), str(i)) for i in range(10)]
    files = ArchiveTree(sources)
    for i in [*range(10), *reversed(range(10)), 5, 0, 5]:
        assert files.read(f"{i}/x.bin") == bytes([i])
        assert len(files._open) <= 3


def test_files_are_closed_with_the_tree(tmp_path, pack):
    files = ArchiveTree([(pack.tar(tmp_path / "x.tar", MEMBERS), "")])
    files.read("folder/1.bin")
    before = len(os.listdir("/proc/self/fd"))
    del files
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_copy_opens_its_own_files(tmp_path, pack):
    files = ArchiveTree([(pack.zip(tmp_path / "x.zip", MEMBERS), "")])
    files.read("folder/1.bin")
    copied = pickle.loads(pickle.dumps(files)).below("folder")
    del files
    assert copied.read("4.bin") == MEMBERS["folder/4.bin"]


def test_threads_may_read_one_tree_though_few_archives_stay_open(tmp_path, pack, monkeypatch):
    monkeypatch.setattr(module, "OPEN", 2)
    sources = [
        (pack.tar(tmp_path / f"{i}.tar", {"x.bin": bytes([i]) * 5000}), str(i)) for i in range(10)
    ]
    files = ArchiveTree(sources)
    wanted = [7 * i % 10 for i in range(2000)]
    with ThreadPool(8) as pool:
        found = pool.map(lambda i: files.read(f"{i}/x.bin"), wanted)
    assert found == [bytes([i]) * 5000 for i in wanted]
