"""Trees of files: a folder on disk, or several trees laid over each other."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path

from vitlab.data.errors import DataError


@dataclass(frozen=True)
class Listing:
    """Content of a folder, without hidden entries.

    Attributes:
        folders: their names, sorted.
        names: names of all other entries, sorted.
    """

    folders: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class FileTree(ABC):
    """A tree of files. Paths are relative to its root, with "/" between folders."""

    @abstractmethod
    def listing(self, folder: str = "") -> Listing | None:
        """Content of a folder, or None if there is none of that path."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is such a file or folder."""

    @abstractmethod
    def open(self, path: str) -> BufferedReader | BytesIO:
        """Open a file for reading.

        Raises:
            FileNotFoundError: there is none of that path.
            OSError: it cannot be read.
        """

    @abstractmethod
    def where(self, path: str = "") -> str:
        """The place of a file or folder, for messages."""

    @abstractmethod
    def below(self, folder: str) -> "FileTree":
        """The tree below a folder."""

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            OSError: it cannot be read.
        """
        with self.open(path) as file:
            return file.read()

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder; none if there is no such folder."""
        return (self.listing(folder) or Listing()).folders

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder; none if there is no such folder."""
        return (self.listing(folder) or Listing()).names


@dataclass(frozen=True)
class FolderTree(FileTree):
    """A folder on disk."""

    root: Path

    def listing(self, folder: str = "") -> Listing | None:
        """A link that leads nowhere or to itself counts as a file: reading it raises an error."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(
                    (entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != "."
                )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise DataError(
                f"cannot list {self.root / folder}: {error.strerror}; ask for permission to read "
                "it",
                field=self.root.name,
            ) from error
        folders = [name for name, is_folder in found if is_folder]
        return Listing(folders, [name for name, is_folder in found if not is_folder])

    def has(self, path: str) -> bool:
        """Without listing its folder."""
        return os.path.lexists(self.root / path)

    def open(self, path: str) -> BufferedReader:
        """A file on disk."""
        return open(self.root / path, "rb")

    def where(self, path: str = "") -> str:
        """Its path."""
        return str(self.root / path) if path else str(self.root)

    def below(self, folder: str) -> "FolderTree":
        """A folder in this folder."""
        return FolderTree(self.root / folder)


class MemoryTree(FileTree):
    """Files in memory, without folders.

    Args:
        contents: of each file, by its name.
        place: where they come from, for messages.
    """

    def __init__(self, contents: Mapping[str, bytes], place: str):
        self.contents, self.place = contents, place

    def listing(self, folder: str = "") -> Listing | None:
        """All files."""
        return None if folder else Listing([], sorted(self.contents))

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self.contents

    def open(self, path: str) -> BytesIO:
        """A file."""
        if path not in self.contents:
            raise FileNotFoundError(2, "No such file", self.where(path))
        return BytesIO(self.contents[path])

    def where(self, path: str = "") -> str:
        """The place, and the name."""
        return f"{self.place}:{path}" if path else self.place

    def below(self, folder: str) -> "MemoryTree":
        """There are no folders."""
        assert not folder
        return self


class OverlayTree(FileTree):
    """Several trees laid over each other; where two have a file, that of the first counts."""

    def __init__(self, *parts: FileTree):
        self.parts = parts

    def listing(self, folder: str = "") -> Listing | None:
        """The union of their entries."""
        found = [listing for part in self.parts if (listing := part.listing(folder)) is not None]
        if not found:
            return None
        return Listing(
            sorted({name for listing in found for name in listing.folders}),
            sorted({name for listing in found for name in listing.names}),
        )

    def has(self, path: str) -> bool:
        """Whether one of them has it."""
        return any(part.has(path) for part in self.parts)

    def open(self, path: str) -> BufferedReader | BytesIO:
        """The file of the first that has it."""
        for part in self.parts:
            try:
                return part.open(path)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(2, "No such file", self.where(path))

    def where(self, path: str = "") -> str:
        """The place in the first that has it."""
        return next((p for p in self.parts if not path or p.has(path)), self.parts[0]).where(path)

    def below(self, folder: str) -> "OverlayTree":
        """The folders of all of them."""
        return OverlayTree(*(part.below(folder) for part in self.parts))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
