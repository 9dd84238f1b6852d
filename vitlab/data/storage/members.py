"""What is in a tar or zip archive, and where in the file.

A tar in a tar (ImageNet's training archive holds one for each class) is a folder of that name.
"""

import fcntl
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, Shaped
from rich.console import Console
from rich.progress import Progress

from vitlab.data.errors import DataError
from vitlab.data.storage.listings import LARGE, keep, recall

ENCRYPTED, LINK = 1, 0xA  # flag of a zip member; kind of a file in its attributes
PADDING = 1 << 22  # bytes of zeros that may end a tar; the usual are 10,240 at most
PLAIN, STORED, DEFLATED = 0, 1, 2  # member of a tar; of a zip, as it is or packed
COLUMNS = ("names", "offsets", "sizes", "kinds", "checksums")
Row = tuple[bytes, int, int, int, int]


@dataclass(frozen=True)
class Index:
    """Members of an archive, sorted by name.

    Arrays, since a million Python objects would weigh on every worker.

    Attributes:
        names: path of each member in the tree, as bytes.
        sources: number of the archive it is in.
        offsets: of its content (tar) or its header (zip) in the file.
        sizes: bytes it takes in the file.
        kinds: PLAIN, STORED or DEFLATED.
        checksums: CRC-32 of its content (zip only).
    """

    names: Shaped[np.ndarray, " n"]
    sources: Int64[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " n"]
    sizes: Int64[np.ndarray, " n"]
    kinds: Int64[np.ndarray, " n"]
    checksums: Int64[np.ndarray, " n"]

    def place(self, name: bytes) -> int:
        """Number of names that sort before this one."""
        # a key of another width would have numpy copy all names
        key = np.array(name, self.names.dtype)
        return int(np.searchsorted(self.names, key))

    def find(self, name: bytes) -> int | None:
        """Number of a member, or None."""
        if len(name) > self.names.dtype.itemsize:
            return None
        at = self.place(name)
        return at if at < len(self.names) and self.names[at] == name else None


def indexed(sources: Sequence[tuple[Path, str]]) -> Index:
    """Members of archives, each below its folder; of two with one name the first archive's counts.

    Where there are many, they are kept for the next start.

    Args:
        sources: each archive, and the folder of the tree that its members go to ("" for the top).
    """
    tables = [_table(path) for path, _ in sources]
    many = sum(len(table.columns["names"]) for table in tables) >= LARGE
    indices = []
    for (path, at), table in zip(sources, tables, strict=True):
        if many and table.new:
            keep(path.parent, path.name, table.columns)
        names = table.columns["names"]
        indices.append(np.char.add(os.fsencode(f"{at}/"), names) if at else names)
    names, first = np.unique(np.concatenate(indices), return_index=True)
    numbers = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
    columns = [
        np.concatenate([table.columns[column] for table in tables])[first].astype(np.int64)
        for column in COLUMNS[1:]
    ]
    return Index(names, numbers[first], *columns)


@dataclass(frozen=True)
class _Table:
    """Columns of an archive's members, and whether they were read now and are not kept yet."""

    columns: dict[str, np.ndarray]
    new: bool


def _table(path: Path) -> _Table:
    """Members of an archive: the ones kept if it is still the same file.

    Of several processes that start together one reads, and the others take what it keeps.
    """
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            identity = np.array([state.st_size, state.st_mtime_ns])
            kept = _kept(path, identity)
            if kept is None:
                with suppress(OSError):  # a file system without locks: each reads for itself
                    fcntl.flock(file, fcntl.LOCK_EX)
                kept = _kept(path, identity)
            if kept is not None:
                return _Table(kept, new=False)
            rows = _zip_members(path) if path.suffix == ".zip" else _tar_members(path)
            if not rows:
                raise DataError(f"archive {path} holds no files; download it again")
            # a name that comes again replaces the earlier one, as it does in extracting
            rows = list({row[0]: row for row in rows}.values())
            columns = dict(zip(COLUMNS, map(np.array, zip(*rows, strict=True)), strict=True))
            columns["identity"] = identity
            if len(rows) >= LARGE:
                keep(path.parent, path.name, columns)
            return _Table(columns, new=len(rows) < LARGE)
    except PermissionError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; ask for permission") from error


def _kept(path: Path, identity: np.ndarray) -> dict[str, np.ndarray] | None:
    kept = recall(path.parent, path.name, (*COLUMNS, "identity"))
    return kept if kept is not None and np.array_equal(kept["identity"], identity) else None


def _zip_members(path: Path) -> list[Row]:
    rows = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                unusual = member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if unusual or member.flag_bits & ENCRYPTED or member.external_attr >> 28 == LINK:
                    raise DataError(
                        f"{path} holds {member.filename} encrypted, as a link or packed in an "
                        "unusual way; extract the archive"
                    )
                kind = DEFLATED if member.compress_type else STORED
                name = _safe(path, member.filename)
                rows.append((name, member.header_offset, member.compress_size, kind, member.CRC))
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no whole zip archive ({error}); download it again") from error
    return rows


def _tar_members(path: Path) -> list[Row]:
    size = path.stat().st_size
    progress = Progress(console=Console(stderr=True), transient=True)
    rows = []
    with open(path, "rb", buffering=0) as file, progress:
        task = progress.add_task(f"indexing {path.name}", total=size)
        for name, offset, length in _walk(path, file, 0, size, b""):
            rows.append((name, offset, length, PLAIN, 0))
            progress.update(task, completed=offset)
    return rows


def _walk(
    path: Path, file: IO[bytes], start: int, size: int, folder: bytes
) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and length of each file in the tar that begins at `start`."""
    part = _Part(file, start, size)
    try:
        with tarfile.open(fileobj=part, mode="r:") as archive:
            for member in archive:
                offset, name = member.offset_data, folder + _safe(path, member.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{path} holds {os.fsdecode(name)} as a link or in another form than a "
                        "plain file; extract the archive"
                    )
                if not 0 <= member.size <= size - offset:
                    raise tarfile.ReadError(f"ends within {member.name}")
                if name.endswith(b".tar"):
                    inner = name.removesuffix(b".tar") + b"/"
                    yield from _walk(path, file, start + offset, member.size, inner)
                else:
                    yield name, start + offset, member.size
            if folder and not archive.getmembers():
                raise tarfile.ReadError("holds no files")
            # iterating ends without complaint at anything that is no header, and at the holes
            # that a stopped download leaves
            part.seek(archive.offset)
            rest = part.read(PADDING)
            if len(rest) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("has no end mark")
            if rest.strip(b"\0") or part.tell() < size:
                raise tarfile.ReadError(f"is damaged at byte {start + archive.offset}")
    except tarfile.TarError as error:
        within = f" in {os.fsdecode(folder[:-1])}.tar" if folder else ""
        raise DataError(
            f"{path} is no whole tar archive{within} ({error}); download it again"
        ) from error


class _Part(io.RawIOBase):
    """Part of a file as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int):
        self.file, self.start, self.size, self.at = file, start, size, 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self.at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.at)
        data = os.pread(
            self.file.fileno(), left if size < 0 else min(size, left), self.start + self.at
        )
        self.at += len(data)
        return data


def _safe(path: Path, name: str) -> bytes:
    """Name of a member, refused if it would lead out of the tree."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise DataError(
            f"{path} holds a member named {name!r}, which leads out of it; do not use this archive"
        )
    return os.fsencode("/".join(parts))
