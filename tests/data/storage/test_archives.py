"""Archives as people have them: cut, damaged, encrypted, odd; large ones; their kept index."""

import io
import os
import pickle
import tarfile
import zipfile
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from refusals import refused

from vitlab.data import DataError
from vitlab.data.storage import ArchiveTree, archive_index, archive_tree

MEMBERS = {f"folder/{i}.bin": bytes([65 + i]) * (300 * i) for i in range(5)}
BLOCK = 512
KINDS = pytest.mark.parametrize("kind", ["tar", "zip"])
PACKINGS = pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


def read(path, at="") -> dict[str, bytes]:
    """All that an archive holds."""
    files = ArchiveTree([(path, at)])
    return {os.fsdecode(name): files.read(os.fsdecode(name)) for name in files.index.names}


def bytes_of(pack, members) -> bytes:
    """A tar of these files, in memory."""
    return pack.tar(io.BytesIO(), members).getvalue()


def refuse(path, wording=True):
    with refused(path.name, DataError, wording):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_are_read_and_long_names_are_whole(tmp_path, pack, format):
    members = MEMBERS | {"n" * 90 + "/i.jpg": b"x"}
    if format != tarfile.USTAR_FORMAT:
        members |= {"/".join(["n" * 90] * 5) + f"/{i}.jpg": b"x" for i in range(3)}
    assert read(pack.tar(tmp_path / "x.tar", members, format)) == members


def test_folders_and_empty_files_of_a_tar_are_told_apart(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("folder/empty"))
        archive.addfile(tarfile.TarInfo("./folder//other"))
    files = ArchiveTree([(tmp_path / "x.tar", "")])
    assert files.listing("folder") == ([], ["empty", "other"])
    assert files.read("folder/empty") == files.read("folder/other") == b""


def test_a_tar_in_a_tar_is_a_folder_at_any_depth(tmp_path, pack):
    innermost = bytes_of(pack, {"deep.bin": b"deep" * 400})
    inner = bytes_of(pack, {"c/d.tar": innermost, "x.bin": b"x"})
    path = pack.tar(tmp_path / "x.tar", {"a/b.tar": inner, "y.bin": b"y"})
    expected = {"a/b/c/d/deep.bin": b"deep" * 400, "a/b/x.bin": b"x", "y.bin": b"y"}
    assert read(path) == expected
    assert read(path, "at") == {f"at/{name}": content for name, content in expected.items()}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_files_with_one_name_the_last_counts_as_in_extracting(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"newer")
    with (
        tarfile.open(tmp_path / "x.tar", "w") as tar,
        zipfile.ZipFile(tmp_path / "x.zip", "w") as packed,
    ):
        for name in ("old", "new"):
            tar.add(tmp_path / name, "a")
            packed.write(tmp_path / name, "a")
    assert read(tmp_path / "x.tar") == read(tmp_path / "x.zip") == {"a": b"newer"}


def test_what_is_no_plain_file_in_a_tar_is_refused_since_it_would_be_lost(tmp_path):
    path = tmp_path / "x.tar"
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo("x.bin")
        member.type, member.linkname = kind, "a.bin"
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("a.bin"))
            archive.addfile(member)
        refuse(path)
    sparse = tarfile.TarInfo("x.bin")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    sparse.pax_headers |= {"GNU.sparse.name": "x.bin", "GNU.sparse.realsize": "1000000"}
    content = b"1\n999999\n1\n".ljust(BLOCK, b"\0") + b"z".ljust(BLOCK, b"\0")
    sparse.size = len(content)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(sparse, io.BytesIO(content))
    refuse(path)


def test_names_that_lead_out_are_refused(tmp_path, pack):
    for name in ("../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a/.."):
        refuse(pack.tar(tmp_path / "x.tar", {name: b""}))
        refuse(pack.zip(tmp_path / "x.zip", {name: b""}))
        refuse(pack.tar(tmp_path / "x.tar", {"n.tar": bytes_of(pack, {name: b""})}))


def test_a_tar_cut_anywhere_is_refused(tmp_path, pack):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for cut in sorted({*range(0, used, BLOCK), *range(100, used, 700), used - 1, used}):
        path.write_bytes(whole[:cut])
        refuse(path, wording=cut == 11 * BLOCK)
    path.write_bytes(whole[: used + BLOCK])  # some tools write one block as the mark
    assert read(path) == MEMBERS


@pytest.mark.parametrize("inner", [b"", bytes(10240), b"no tar at all" * 100, 2, 3 * BLOCK, 2660])
def test_a_tar_in_a_tar_that_is_cut_or_empty_is_refused_since_its_class_would_be_lost(
    tmp_path, pack, inner
):
    if isinstance(inner, int):
        inner = bytes_of(pack, {"1.bin": b"x" * 800, "2.bin": b"y" * 800})[:inner]
    path = pack.tar(tmp_path / "x.tar", {"n01.tar": bytes_of(pack, MEMBERS), "n02.tar": inner})
    refuse(path)


@pytest.mark.parametrize("content", [bytes(BLOCK), b"garbage" * 73 + b"!"])
def test_a_damaged_header_or_a_hole_is_not_taken_for_the_end(tmp_path, pack, content):
    path = pack.tar(tmp_path / "x.tar", {"1": b"x" * 100, "2": b"y" * 100, "3": b"z" * 100})
    whole = bytearray(path.read_bytes())
    whole[2 * BLOCK : 3 * BLOCK] = content  # the header of 2
    path.write_bytes(bytes(whole))
    refuse(path)
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    os.truncate(path, 1 << 30)  # its place was taken beforehand, and is a hole
    refuse(path)


@KINDS
def test_no_damage_ends_in_another_error_or_in_wrong_contents(tmp_path, pack, kind):
    """A byte anywhere is changed; then an error is raised, or nothing that is read is wrong.

    A tar has no checksum of contents, and a zip none of its list of members.
    """
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    noticed = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            found = read(path)
        except (DataError, OSError):
            noticed += 1
            continue
        if kind == "tar":
            assert {name: len(content) for name, content in found.items()} == {
                name: len(content) for name, content in MEMBERS.items()
            }
        else:
            assert all(found[name] == MEMBERS[name] for name in found.keys() & MEMBERS.keys())
    assert noticed > 40


@KINDS
def test_empty_foreign_and_later_cut_archives_are_errors(tmp_path, pack, kind):
    path = tmp_path / f"x.{kind}"
    refuse(getattr(pack, kind)(path, {}))
    for content in (b"", b"<html>404 not found</html>" * 50):
        path.write_bytes(content)
        refuse(path)
    files = ArchiveTree([(getattr(pack, kind)(path, MEMBERS), "")])
    os.truncate(path, 600)
    with pytest.raises(OSError, match="the archive ends before this member") as caught:
        files.read("folder/4.bin")
    assert caught.value.filename == f"{path}:folder/4.bin"


@PACKINGS
def test_a_cut_zip_is_refused_and_a_damaged_member_is_named(tmp_path, pack, packing):
    path = pack.zip(tmp_path / "x.zip", MEMBERS, packing)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 53):
        path.write_bytes(whole[:cut])
        refuse(path, wording=False)
    damaged = bytearray(whole)
    at = whole.index(b"folder/3.bin") + len("folder/3.bin")
    damaged[at + 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    files = ArchiveTree([(path, "")])
    with pytest.raises(OSError, match="the archive is damaged here") as caught:
        files.read("folder/3.bin")
    assert caught.value.filename == f"{path}:folder/3.bin"
    assert all(files.read(name) == MEMBERS[name] for name in ("folder/2.bin", "folder/4.bin"))


def test_zips_that_cannot_be_read_in_place_are_refused(tmp_path, pack):
    for packing in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refuse(pack.zip(tmp_path / "x.zip", MEMBERS, packing))
    path = pack.zip(tmp_path / "x.zip", {"a.bin": b"secret"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of encryption in the header and in the list of members
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(content))
    refuse(path)
    link = zipfile.ZipInfo("x.bin")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "a.bin")
    refuse(path)


def test_members_beyond_four_gigabytes_are_found(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("a.bin", "w", force_zip64=True) as member:
            member.write(b"first")
        archive.fp.seek(5 << 30)  # a hole, which takes no space
        archive.start_dir = archive.fp.tell()
        archive.writestr("b.bin", b"far away")
    assert path.stat().st_size > 5 << 30
    assert read(path) == {"a.bin": b"first", "b.bin": b"far away"}


def test_more_archives_than_may_be_open_are_read_by_threads_and_closed_with_the_tree(
    tmp_path, pack, monkeypatch
):
    monkeypatch.setattr(archive_tree, "OPEN", 3)
    contents = [bytes([i]) * 5000 for i in range(10)]
    files = ArchiveTree(
        [(pack.tar(tmp_path / f"{i}.tar", {"x.bin": contents[i]}), str(i)) for i in range(10)]
    )
    before = len(os.listdir("/proc/self/fd"))
    for i in [*range(10), *reversed(range(10)), 5, 0, 5]:
        assert files.read(f"{i}/x.bin") == contents[i]
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    copied = pickle.loads(pickle.dumps(files))
    del files
    assert len(os.listdir("/proc/self/fd")) == before
    assert copied.below("4").read("x.bin") == contents[4]
    wanted = [7 * i % 10 for i in range(2000)]
    with ThreadPool(8) as pool:
        found = pool.map(lambda i: copied.read(f"{i}/x.bin"), wanted)
    assert found == [contents[i] for i in wanted]


@KINDS
def test_a_large_archive_is_read_through_once_until_it_or_its_kept_index_changes(
    tmp_path, pack, monkeypatch, cache, kind
):
    path, indexed, members = tmp_path / f"x.{kind}", [], archive_index._members
    monkeypatch.setattr(archive_index, "LARGE", 1)
    monkeypatch.setattr(
        archive_index, "_members", lambda path: indexed.append(path.name) or members(path)
    )
    getattr(pack, kind)(path, MEMBERS)
    whole = {f"at/{name}": content for name, content in MEMBERS.items()}
    cache.touch()
    with pytest.warns(UserWarning, match="the next start indexes the archives again"):
        assert read(path, "at") == whole
    cache.unlink()
    for _ in range(3):
        assert read(path, "at") == whole
    assert indexed == [path.name] * 2
    assert list(tmp_path.iterdir()) == [path]  # nothing is left beside the data
    (kept,) = (cache / "vitlab").iterdir()
    content, bomb = kept.read_bytes(), io.BytesIO()
    np.savez(bomb, names=np.array([print], dtype=object))  # never unpickled
    for damaged in (content[:-100], b"", bomb.getvalue()):
        kept.write_bytes(damaged)
        with pytest.warns(UserWarning, match="cannot be used and is made again"):
            assert read(path, "at") == whole
        assert read(path, "at") == whole
    assert len(indexed) == 5
    for other in ({"1.bin": b"a"}, {"1.bin": b"b"}):
        assert read(getattr(pack, kind)(path, other)) == other
    os.utime(path, ns=(0, 0))
    read(path)
    assert len(indexed) == 8
