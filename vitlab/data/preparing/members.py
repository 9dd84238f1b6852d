"""What is in an archive, one member after the other, to be written to disk.

Unlike `archives`, which reads single members in any order, this goes once from begin to end: it
serves packed tars too, and says what it leaves out.
"""

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, cast

from vitlab.data.errors import DataError
from vitlab.data.listings import FOLDER

CHUNK = 1 << 20  # bytes read at once
GZIP = b"\x1f\x8b"
# what the readers of the standard library raise about damage
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error)


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path in the archive, cleaned; never leads out of the tree. A member of a tar in
            the tar lies in a folder of the inner tar's name.
        size: of its content, in bytes.
        position: how far the archive is read when this member is reached, in bytes.
        chunks: its content; to be read before the next member is asked for.
    """

    name: str
    size: int
    position: int
    chunks: Callable[[], Iterator[bytes]]


def members(path: Path, nested: bool, skipped: list[str]) -> Iterator[Member]:
    """All files in a tar (plain or gzip) or zip archive, in the archive's order.

    Args:
        path: of the archive.
        nested: whether tars in the tar are folders, as in ImageNet's training archive.
        skipped: grows by the names of links and devices, which are left out.

    Raises:
        DataError: if the archive is cut or damaged, or a member leads out of the tree. A tar holds
            no checksums of content: damage in the middle of a file shows only in its md5 sum.
    """
    return _zip(path, skipped) if path.suffix == ".zip" else _tar(path, nested, skipped)


def _zip(path: Path, skipped: list[str]) -> Iterator[Member]:
    with _reading(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _safe(path, info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                skipped.append(name)
                continue
            if info.flag_bits & 1 or info.compress_type not in (0, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f"{path} holds {name} encrypted or packed in an unusual way; the official "
                    "archive does not: download that one"
                )
            chunks = partial(_chunks, path, info.file_size, partial(archive.open, info))
            yield Member(name, info.file_size, info.header_offset, chunks)


def _tar(path: Path, nested: bool, skipped: list[str]) -> Iterator[Member]:
    with _reading(path), open(path, "rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not packed:
            size = os.fstat(file.fileno()).st_size
            yield from _Walk(path, file.tell, nested, skipped).files(file, partial(int, size), "")
            return
        with gzip.GzipFile(fileobj=file) as plain:
            walk = _Walk(path, file.tell, nested, skipped)
            yield from walk.files(plain, partial(_drain, plain), "")


@dataclass(frozen=True)
class _Walk:
    path: Path
    position: Callable[[], int]
    nested: bool
    skipped: list[str]

    def files(self, file: BufferedIOBase, size: Callable[[], int], folder: str) -> Iterator[Member]:
        """Members of a tar, whose size in bytes is known at its end at the latest."""
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as archive:
            for member in archive:
                name = f"{folder}{_safe(self.path, member.name)}"
                if member.isdir():
                    continue
                if not member.isfile():
                    self.skipped.append(name)
                    continue
                opened = partial(_opened, archive, member)
                if self.nested and name.endswith(".tar"):
                    inner = f"{name.removesuffix('.tar')}/"
                    yield from self.files(opened(), partial(int, member.size), inner)
                else:
                    chunks = partial(_chunks, self.path, member.size, opened)
                    yield Member(name, member.size, self.position(), chunks)
            # tarfile takes an end between two members for the end of the archive
            if archive.offset + tarfile.BLOCKSIZE > size():
                within = f" in {folder.rstrip('/')}.tar" if folder else ""
                raise tarfile.ReadError(f"has no end mark{within}")


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BufferedIOBase:
    return cast(BufferedIOBase, archive.extractfile(member))


def _chunks(path: Path, size: int, opened: Callable[[], Any]) -> Iterator[bytes]:
    with _reading(path), opened() as file:
        while chunk := file.read(CHUNK):
            size -= len(chunk)
            yield chunk
        if size:
            raise EOFError("a file in it has another size than it says")


def _drain(file: gzip.GzipFile) -> int:
    """Read to the end, where the checksum is; the number of bytes there are."""
    while file.read(CHUNK):
        pass
    return file.tell()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the archive where it cannot be read."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{path} is no whole archive ({error}); download it again, or move it away if its "
            "content is not wanted; then run this again, which goes on where it stopped"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror or error}); check its permissions and its disk"
        ) from error


def _safe(path: Path, name: str) -> str:
    """Name of a member, refused if it would lead out of the tree or into our own folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or FOLDER in parts:
        raise DataError(
            f"{path} holds a member named {name!r}, which leads out of the folder it is extracted "
            "to; the official archive does not: download that one"
        )
    return "/".join(parts)
