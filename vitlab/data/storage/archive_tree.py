"""Tar and zip archives as trees of files: indexed once, then read in place, never extracted."""

import os
import tarfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from vitlab.data.errors import DataError
from vitlab.data.storage.archive_index import DEFLATED, PLAIN, Index, index_archives
from vitlab.data.storage.file_tree import FileTree, Listing, MemoryTree
from vitlab.terminal import printable

LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
OPEN = 64  # archives that a process holds open: systems allow some hundreds


class ArchiveTree(FileTree):
    """The members of tar and zip files as one tree.

    Args:
        sources: each archive, and the folder of the tree that its members belong to ("" for the
            root).
        top: the folder of that tree to see.
        index: of all members; by default made, or the one that was kept.
    """

    def __init__(
        self, sources: Sequence[tuple[Path, str]], top: str = "", index: Index | None = None
    ):
        self.sources, self.top = tuple(sources), top
        self.index = index or index_archives(self.sources)
        self.opened = lru_cache(OPEN)(_OpenFile)  # an archive stays open for the next member

    def __reduce__(self) -> tuple:
        """Without the open files: other processes open their own."""
        return ArchiveTree, (self.sources, self.top, self.index)

    def listing(self, folder: str = "") -> Listing | None:
        """Content of a folder of the tree."""
        path = self._path(folder)
        prefix = path + b"/" if path else b""
        names = self.index.names
        at = start = self.index.position(prefix)
        end = self.index.position(path + b"0") if path else len(names)  # "0" follows "/"
        found: tuple[list[str], list[str]] = [], []
        while at < end:
            head, more, _ = names[at][len(prefix) :].partition(b"/")
            if not head.startswith(b"."):
                found[0 if more else 1].append(os.fsdecode(head))
            at = self.index.position(prefix + head + b"0") if more else at + 1
        return Listing(*map(sorted, found)) if start < end else None

    def open(self, path: str) -> BytesIO:
        """A member, read whole.

        Raises:
            FileNotFoundError: there is none of that path.
            OSError: the archive is cut, or a zip's checksum is wrong.
        """
        number = self.index.find(self._path(path))
        if number is None:
            raise FileNotFoundError(2, "No such member", self.where(path))
        return BytesIO(self._content(number, self.where(path)))

    def size(self, path: str) -> int:
        """Bytes that it takes in its archive, from the index."""
        number = self.index.find(self._path(path))
        return int(self.index.sizes[number]) if number is not None else super().size(path)

    def has(self, path: str) -> bool:
        """Whether there is such a member, or one below it."""
        name, names = self._path(path), self.index.names
        if self.index.find(name) is not None:
            return True
        inside = self.index.position(name + b"/")
        return inside < len(names) and names[inside].startswith(name + b"/")

    def where(self, path: str = "") -> str:
        """The archive, and the path in it."""
        name = self._path(path)
        at = min(self.index.position(name), len(self.index.names) - 1)
        archive, folder = self.sources[int(self.index.sources[at])]
        inside = os.fsdecode(name).removeprefix(folder).strip("/")
        return printable(f"{archive}:{inside}" if inside else archive)

    def below(self, folder: str) -> "ArchiveTree":
        """A folder of the tree."""
        return ArchiveTree(self.sources, f"{self.top}/{folder}".strip("/"), self.index)

    def _path(self, path: str) -> bytes:
        return os.fsencode(f"{self.top}/{path}".strip("/"))

    def _content(self, number: int, where: str) -> bytes:
        _, source, offset, size, kind, checksum = (column[number] for column in self.index)
        file = self.opened(self.sources[source][0])
        if kind != PLAIN:  # behind a header of variable length
            header = os.pread(file.descriptor, LOCAL_HEADER, offset)
            lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            offset += LOCAL_HEADER + sum(lengths)
        # reading at an offset moves no pointer, so forked workers may share the file
        data = os.pread(file.descriptor, size, offset)
        if len(data) < size:
            raise OSError(5, "the archive ends before this member", where)
        if kind == DEFLATED:
            try:
                data = zlib.decompress(data, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise OSError(5, f"the archive is damaged here: {error}", where) from error
        if kind != PLAIN and zlib.crc32(data) != checksum:
            raise OSError(5, "the archive is damaged here: wrong checksum", where)
        return data


class _OpenFile:
    """Closed when its last reader lets go of it: threads may share an archive."""

    def __init__(self, path: Path):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def unpack_in_memory(archive: Path) -> MemoryTree:
    """The files of a small .tar.gz by their names without folders."""
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                file = packed.extractfile(member) if member.isreg() else None
                if file is not None:
                    contents[member.name.rpartition("/")[2]] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive} is no whole archive ({error}); download it again", field=archive.name
        ) from error
    return MemoryTree(contents, str(archive))
