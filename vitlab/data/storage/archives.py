"""Tar and zip archives as trees of files: indexed once, then read by offset, never extracted."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from vitlab.data.storage.files import FileTree, Listing
from vitlab.data.storage.members import DEFLATED, PLAIN, Index, indexed

LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
OPEN = 64  # archives that a process holds open: systems allow some hundreds


class ArchiveTree(FileTree):
    """The members of tar and zip files as one tree.

    Args:
        sources: each archive, and the folder of the tree that its members go to ("" for the top).
        top: the part of the tree to see.
        index: of all members; by default the ones kept, or made now.
    """

    def __init__(
        self, sources: Sequence[tuple[Path, str]], top: str = "", index: Index | None = None
    ):
        self._open: dict[int, _Source] = {}
        self.sources, self.top = tuple(sources), top
        self.index = index or indexed(self.sources)

    def listing(self, place: str = "") -> Listing | None:
        """What is in a folder of the tree."""
        path = self._path(place)
        prefix = path + b"/" if path else b""
        names = self.index.names
        start, end = self.index.place(prefix), len(names)
        if prefix:
            end = self.index.place(path + b"0")  # "0" follows "/"
        folders: list[str] = []
        found: list[str] = []
        while start < end:
            head, more, _ = names[start][len(prefix) :].partition(b"/")
            (folders if more else found).append(os.fsdecode(head))
            start = self.index.place(prefix + head + b"0") if more else start + 1
        if not folders and not found:
            return None
        return Listing(_visible(folders), _visible(found))

    def open(self, name: str) -> BytesIO:
        """A member, read whole.

        Raises:
            FileNotFoundError: if there is none of that name.
            OSError: if the archive is cut, or a zip's checksum does not fit.
        """
        number = self.index.find(self._path(name))
        if number is None:
            raise FileNotFoundError(2, "No such member", self.where(name))
        return BytesIO(self._content(number, self.where(name)))

    def has(self, path: str) -> bool:
        """Whether there is a member or folder of that name; without listing its folder."""
        place = self._path(path)
        if self.index.find(place) is not None:
            return True
        inside = self.index.place(place + b"/")
        return inside < len(self.index.names) and self.index.names[inside].startswith(place + b"/")

    def where(self, name: str = "") -> str:
        """The archive, and the path in the tree."""
        path = self._path(name)
        at = min(self.index.place(path), len(self.index.names) - 1)
        archive, folder = self.sources[int(self.index.sources[at])]
        inside = os.fsdecode(path).removeprefix(folder).strip("/")
        return f"{archive}:{inside}" if inside else str(archive)

    def below(self, place: str) -> "ArchiveTree":
        """A folder of the tree."""
        return ArchiveTree(self.sources, f"{self.top}/{place}".strip("/"), self.index)

    def remember(self) -> None:
        """Nothing: the index was kept when it was made."""

    def __getstate__(self) -> dict[str, object]:
        """Leave the open files behind: other processes open their own."""
        return self.__dict__ | {"_open": {}}

    def _path(self, place: str) -> bytes:
        return os.fsencode(f"{self.top}/{place}".strip("/"))

    def _content(self, number: int, where: str) -> bytes:
        index = self.index
        offset, size = int(index.offsets[number]), int(index.sizes[number])
        kind = int(index.kinds[number])
        source = self._source(int(index.sources[number]))
        if kind != PLAIN:  # a header whose length is its own business comes first
            header = os.pread(source.descriptor, LOCAL_HEADER, offset)
            offset += LOCAL_HEADER + sum(
                int.from_bytes(header[at : at + 2], "little") for at in (26, 28)
            )
        # reading at an offset moves no pointer, so forked workers may share the file
        data = os.pread(source.descriptor, size, offset)
        if len(data) < size:
            raise OSError(5, "the archive ends before this member", where)
        if kind == DEFLATED:
            try:
                data = zlib.decompress(data, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise OSError(5, f"the archive is damaged here: {error}", where) from error
        if kind != PLAIN and zlib.crc32(data) != index.checksums[number]:
            raise OSError(5, "the archive is damaged here: wrong checksum", where)
        return data

    def _source(self, number: int) -> "_Source":
        """An open archive stays open for the next member, up to a limit."""
        source = self._open.get(number)
        if source is None:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)), None)
            source = _Source(os.open(self.sources[number][0], os.O_RDONLY))
            self._open[number] = source
        return source


@dataclass(frozen=True)
class _Source:
    """An open file, closed when its last reader lets go of it: threads may share an archive."""

    descriptor: int

    def __del__(self) -> None:
        os.close(self.descriptor)


def _visible(names: list[str]) -> list[str]:
    return sorted(name for name in names if name[0] != ".")
