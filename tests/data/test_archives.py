"""Archives as people have them: cut, damaged, encrypted, odd."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from vitlab.data import DataError
from vitlab.data.storage import ArchiveTree, Listing

MEMBERS = {f"folder/{i}.bin": bytes([65 + i]) * (300 * i) for i in range(5)}
BLOCK = 512


def read(path, at="") -> dict[str, bytes]:
    """All that an archive holds."""
    files = ArchiveTree([(path, at)])
    return {os.fsdecode(name): files.read(os.fsdecode(name)) for name in files.index.names}


def bytes_of(members, **options) -> bytes:
    """A tar of these files, in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_are_read(tmp_path, pack, format):
    assert read(pack.tar(tmp_path / "x.tar", MEMBERS, format)) == MEMBERS


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole(tmp_path, pack, format):
    members = {"/".join(["n" * 90] * 5) + f"/{i}.jpg": b"x" for i in range(3)} | {"short": b"y"}
    assert read(pack.tar(tmp_path / "x.tar", members, format)) == members


def test_folders_and_empty_files_of_a_tar_are_told_apart(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("folder/empty"))
        archive.addfile(tarfile.TarInfo("./folder//other"))
    files = ArchiveTree([(tmp_path / "x.tar", "")])
    assert files.listing("folder") == Listing([], ["empty", "other"])
    assert files.read("folder/empty") == files.read("folder/other") == b""


def test_a_tar_in_a_tar_is_a_folder_at_any_depth(tmp_path, pack):
    innermost = bytes_of({"deep.bin": b"deep" * 400})
    inner = bytes_of({"c/d.tar": innermost, "x.bin": b"x"}, format=tarfile.PAX_FORMAT)
    path = pack.tar(tmp_path / "x.tar", {"a/b.tar": inner, "y.bin": b"y"})
    expected = {"a/b/c/d/deep.bin": b"deep" * 400, "a/b/x.bin": b"x", "y.bin": b"y"}
    assert read(path) == expected
    assert read(path, "at") == {f"at/{name}": content for name, content in expected.items()}


def test_of_files_with_one_name_the_last_counts_as_in_extracting(tmp_path, pack):
    pack.tar(tmp_path / "x.tar", {"a": b"old", "b": b"b"})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        member = tarfile.TarInfo("a")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"newer"))
    pack.zip(tmp_path / "x.zip", {"a": b"old", "b": b"b"})
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "a") as packed,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        packed.writestr("a", b"newer")
    for path in (tmp_path / "x.tar", tmp_path / "x.zip"):
        assert read(path) == {"a": b"newer", "b": b"b"}


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("x.bin")
    member.type, member.linkname = kind, "a.bin"
    return member


@pytest.mark.parametrize(
    "member",
    [link(tarfile.LNKTYPE), link(tarfile.SYMTYPE), link(tarfile.FIFOTYPE)],
    ids=["hard", "symbolic", "pipe"],
)
def test_links_in_a_tar_are_refused_since_a_file_would_be_lost(tmp_path, member):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.bin"))
        archive.addfile(member)
    with pytest.raises(DataError, match=r"x\.tar holds x\.bin as a link .*; extract the archive"):
        ArchiveTree([(tmp_path / "x.tar", "")])


def test_a_sparse_file_in_a_tar_is_refused_since_its_bytes_lie_elsewhere(tmp_path):
    header = tarfile.TarInfo("x.bin")
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    header.pax_headers |= {"GNU.sparse.name": "x.bin", "GNU.sparse.realsize": "1000000"}
    content = b"1\n999999\n1\n".ljust(BLOCK, b"\0") + b"z".ljust(BLOCK, b"\0")
    header.size = len(content)
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(header, io.BytesIO(content))
    with pytest.raises(DataError, match=r"x\.tar holds x\.bin as a link or in another form"):
        ArchiveTree([(tmp_path / "x.tar", "")])


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a/.."])
@pytest.mark.parametrize("kind", ["tar", "zip", "inner"])
def test_names_that_lead_out_are_refused(tmp_path, pack, kind, name):
    if kind == "zip":
        path = pack.zip(tmp_path / "x.zip", {name: b""})
    elif kind == "tar":
        path = pack.tar(tmp_path / "x.tar", {name: b""})
    else:
        path = pack.tar(tmp_path / "x.tar", {"n.tar": bytes_of({name: b""})})
    with pytest.raises(DataError, match=r"x\.\w+ holds a member named .*leads out of it; do not"):
        ArchiveTree([(path, "")])


def test_a_tar_cut_anywhere_is_refused(tmp_path, pack):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    cuts = {*range(0, used, BLOCK), *range(100, used, 700), used - 1, used}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.tar is no whole tar archive .*download it again"):
            ArchiveTree([(path, "")])
    path.write_bytes(whole[: used + BLOCK])  # some tools write one block as the mark
    assert read(path) == MEMBERS


def test_a_tar_cut_in_a_member_names_it(tmp_path, pack):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[: 11 * BLOCK])
    with pytest.raises(DataError, match=r"x\.tar .*\(ends within folder/4\.bin\)"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("cut", [2, BLOCK, 3 * BLOCK, 5 * BLOCK, 5 * BLOCK + 100])
def test_a_cut_tar_in_a_tar_names_both(tmp_path, pack, cut):
    inner = bytes_of({"1.bin": b"x" * 800, "2.bin": b"y" * 800})[:cut]
    path = pack.tar(tmp_path / "x.tar", {"n01.tar": bytes_of(MEMBERS), "n02.tar": inner})
    with pytest.raises(DataError, match=r"x\.tar is no whole tar archive in n02\.tar .*download"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("inner", [b"", bytes(10240), b"no tar at all" * 100])
def test_a_tar_in_a_tar_without_files_is_refused_since_its_class_would_be_lost(
    tmp_path, pack, inner
):
    path = pack.tar(tmp_path / "x.tar", {"n01.tar": bytes_of(MEMBERS), "n02.tar": inner})
    with pytest.raises(DataError, match=r"x\.tar is no whole tar archive in n02\.tar"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("content", [bytes(BLOCK), b"garbage" * 73 + b"!"])
def test_a_damaged_header_or_a_hole_is_not_taken_for_the_end(tmp_path, pack, content):
    path = pack.tar(tmp_path / "x.tar", {"1": b"x" * 100, "2": b"y" * 100, "3": b"z" * 100})
    whole = bytearray(path.read_bytes())
    whole[2 * BLOCK : 3 * BLOCK] = content  # the header of 2
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"x\.tar .*damaged at byte 1024.*download it again"):
        ArchiveTree([(path, "")])


def test_a_tar_of_which_only_the_beginning_has_arrived_is_refused(tmp_path, pack):
    path = pack.tar(tmp_path / "x.tar", MEMBERS)
    os.truncate(path, 1 << 30)  # its place was taken beforehand, and is a hole
    with pytest.raises(DataError, match=r"x\.tar .*damaged at byte 6656.*download it again"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_damage_ends_in_another_error_or_in_wrong_contents(tmp_path, pack, kind):
    """A byte anywhere is changed; then someone says so, or nothing that is read is wrong.

    A tar has no checksum of contents, and a zip none of its list of members.
    """
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    noticed = 0
    for _ in range(400):
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
    assert noticed > 50


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_without_files_is_refused(tmp_path, pack, kind):
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", {})
    with pytest.raises(DataError, match=rf"x\.{kind} holds no files; download it again"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("ending", ["tar", "zip"])
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>" * 50])
def test_what_is_no_archive_is_refused(tmp_path, ending, content):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.{ending} is no whole {ending} archive .*download"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_cut_zip_is_refused(tmp_path, pack, packing):
    path = pack.zip(tmp_path / "x.zip", MEMBERS, packing)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 53):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.zip is no whole zip archive .*download it again"):
            ArchiveTree([(path, "")])


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_named_and_the_others_are_read(tmp_path, pack, packing):
    path = pack.zip(tmp_path / "x.zip", MEMBERS, packing)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"folder/3.bin") + len("folder/3.bin")
    whole[at + 2] ^= 0xFF
    path.write_bytes(bytes(whole))
    files = ArchiveTree([(path, "")])
    with pytest.raises(OSError, match="the archive is damaged here") as caught:
        files.read("folder/3.bin")
    assert caught.value.filename == f"{path}:folder/3.bin"
    assert files.read("folder/2.bin") == MEMBERS["folder/2.bin"]
    assert files.read("folder/4.bin") == MEMBERS["folder/4.bin"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_cut_after_it_was_indexed_is_an_error_of_reading(tmp_path, pack, kind):
    path = getattr(pack, kind)(tmp_path / f"x.{kind}", MEMBERS)
    files = ArchiveTree([(path, "")])
    os.truncate(path, 600)
    with pytest.raises(OSError, match="the archive ends before this member") as caught:
        files.read("folder/4.bin")
    assert caught.value.filename == f"{path}:folder/4.bin"


def test_an_encrypted_zip_is_refused(tmp_path, pack):
    path = pack.zip(tmp_path / "x.zip", {"a.bin": b"secret"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # flags in the header and in the list of members
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"x\.zip holds a\.bin encrypted.*; extract the archive"):
        ArchiveTree([(path, "")])


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_an_unusual_way_is_refused(tmp_path, pack, packing):
    path = pack.zip(tmp_path / "x.zip", MEMBERS, packing)
    with pytest.raises(DataError, match=r"packed in an unusual way; extract the archive"):
        ArchiveTree([(path, "")])


def test_a_link_in_a_zip_is_refused(tmp_path):
    member = zipfile.ZipInfo("x.bin")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, "a.bin")
    with pytest.raises(DataError, match=r"x\.zip holds x\.bin .*as a link"):
        ArchiveTree([(tmp_path / "x.zip", "")])
