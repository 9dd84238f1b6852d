"""Index of the members of tar and zip archives, kept in the user's cache.

A tar in a tar (ImageNet's training archive has one for each class) is a folder of that name.
"""

import hashlib
import io
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

from vitlab.atomic_io import write_bytes
from vitlab.data.errors import DataError
from vitlab.progress import ProgressBar

VERSION = 2  # of a kept index
LARGE = 10_000  # members from which an index is worth keeping
ENCRYPTED, LINK = 1, 0xA  # flag of a zip member; kind of a file in its attributes
PADDING = 1 << 22  # bytes of zeros that may end a tar; the usual are 10,240 at most
PLAIN, STORED, DEFLATED = 0, 1, 2  # member of a tar; of a zip, as it is or compressed
Row = tuple[bytes, int, int, int, int]  # as the attributes of `Index`, without sources


class Index(NamedTuple):
    """Members of archives, sorted by name.

    Arrays, because a million Python objects would be copied into every worker.

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

    def position(self, name: bytes) -> int:
        """Number of names that sort before this one."""
        # a key of another width would have numpy copy all names
        return int(np.searchsorted(self.names, np.array(name, self.names.dtype)))

    def find(self, name: bytes) -> int | None:
        """Number of a member, or None."""
        if len(name) > self.names.dtype.itemsize:
            return None
        at = self.position(name)
        return at if at < len(self.names) and self.names[at] == name else None


def index_archives(sources: Sequence[tuple[Path, str]]) -> Index:
    """Index archives; where two have a member of the same path, the first archive's counts.

    A large index is kept in the user's cache until one of the archives changes.

    Args:
        sources: each archive, and the folder of the tree that its members belong to ("" for the
            root).
    """
    try:
        states = [(path.resolve(), at, os.stat(path)) for path, at in sources]
        identity = [(str(path), at, s.st_size, s.st_mtime_ns) for path, at, s in states]
        key = hashlib.sha256(repr((VERSION, identity)).encode()).hexdigest()[:32]
        file = _cache_folder() / f"archives-{key}.npz"
        index = _load(file)
        if index is None:
            index = _read(sources)
            if len(index.names) >= LARGE:
                _keep(file, index)
    except PermissionError as error:
        path, reason = Path(error.filename), error.strerror
        raise _error(path, f"cannot be read: {reason}", "ask for permission") from error
    return index


def _read(sources: Sequence[tuple[Path, str]]) -> Index:
    rows: dict[bytes, tuple[int, ...]] = {}
    for number, (path, at) in enumerate(sources):
        prefix = os.fsencode(f"{at}/") if at else b""
        for name, *rest in _members(path):
            rows.setdefault(prefix + name, (number, *rest))
    names = np.array(list(rows))
    order = np.argsort(names)
    return Index(names[order], *np.array(list(rows.values()), np.int64).T[:, order])


def _members(path: Path) -> list[Row]:
    """Members of one archive; a name that comes again replaces the earlier, as in extracting."""
    rows = {row[0]: row for row in (_zip if path.suffix == ".zip" else _tar)(path)}
    if not rows:
        raise _error(path, "holds no files")
    return list(rows.values())


def _zip(path: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                unusual = member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if unusual or member.flag_bits & ENCRYPTED or member.external_attr >> 28 == LINK:
                    fault = "encrypted, as a link or in another compression than deflate"
                    raise _error(path, f"holds {member.filename} {fault}", "extract the archive")
                kind = DEFLATED if member.compress_type else STORED
                name = _safe(path, member.filename)
                yield name, member.header_offset, member.compress_size, kind, member.CRC
    except zipfile.BadZipFile as error:
        raise _error(path, f"is no whole zip archive ({error})") from error


def _tar(path: Path) -> Iterator[Row]:
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file, ProgressBar(f"indexing {path.name}", size) as bar:
        for name, offset, length in _walk(path, file, 0, size, b""):
            yield name, offset, length, PLAIN, 0
            bar.advance(offset - bar.done)


def _walk(
    path: Path, file: io.FileIO, start: int, end: int, folder: bytes
) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and length of each file in the tar between two offsets of a file."""
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                offset, name = member.offset_data, folder + _safe(path, member.name)
                if not (member.isdir() or member.isreg()) or member.issparse():
                    fault = f"holds {os.fsdecode(name)} as a link or in another form than a plain"
                    raise _error(path, f"{fault} file", "extract the archive")
                if not 0 <= member.size <= end - offset:
                    raise tarfile.ReadError(f"ends within {member.name}")
                if member.isdir():
                    continue
                if name.endswith(b".tar"):
                    inner = name.removesuffix(b".tar") + b"/"
                    yield from _walk(path, file, offset, offset + member.size, inner)
                else:
                    yield name, offset, member.size
            if folder and not archive.getmembers():
                raise tarfile.ReadError("holds no files")
            # iterating ends without an error at anything that is no header, and at the holes that
            # a stopped download leaves
            rest = os.pread(
                file.fileno(), max(0, min(PADDING, end - archive.offset)), archive.offset
            )
            if len(rest) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("has no end mark")
            if rest.strip(b"\0") or archive.offset + len(rest) < end:
                raise tarfile.ReadError(f"is damaged at byte {archive.offset}")
    except tarfile.TarError as error:
        within = f" in {os.fsdecode(folder[:-1])}.tar" if folder else ""
        raise _error(path, f"is no whole tar archive{within} ({error})") from error


def _safe(path: Path, name: str) -> bytes:
    """Path of a member, refused if it leads out of the tree."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        fault = f"holds a member named {name!r}, which leads out of it"
        raise _error(path, fault, "do not use this archive")
    return os.fsencode("/".join(parts))


def _error(path: Path, fault: str, remedy: str = "download it again") -> DataError:
    return DataError(f"{path} {fault}; {remedy}", field=path.name)


def _load(file: Path) -> Index | None:
    if not file.is_file():
        return None
    try:
        with open(file, "rb") as source, np.load(source, allow_pickle=False) as kept:
            return Index(**{name: kept[name] for name in Index._fields})
    except Exception as error:  # the parser trips over damage in many ways
        warnings.warn(f"{file} cannot be used and is made again: {error}", stacklevel=4)
        return None


def _keep(file: Path, index: Index) -> None:
    content = io.BytesIO()
    np.savez(content, **index._asdict())
    try:
        write_bytes(file, content.getvalue())
    except OSError as error:
        warnings.warn(
            f"{error}, so the next start indexes the archives again; set XDG_CACHE_HOME to a "
            "folder that can be written",
            stacklevel=4,
        )


def _cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # a user without a home, as in some containers
    return Path(tempfile.gettempdir() if cache.startswith("~") else cache) / "vitlab"
