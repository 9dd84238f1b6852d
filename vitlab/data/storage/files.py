"""Where files lie: in folders on disk, in archives, or in both as if they were one tree."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path

from vitlab.data.storage.listings import Listings

Opened = BufferedReader | BytesIO


@dataclass(frozen=True)
class Listing:
    """What is in a folder; hidden entries are left out.

    Attributes:
        folders: their names, sorted.
        names: names of all other entries, sorted.
    """

    folders: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __or__(self, other: "Listing") -> "Listing":
        return Listing(sorted({*self.folders, *other.folders}), sorted({*self.names, *other.names}))


class FileTree(ABC):
    """A tree of files. Names are relative to its top, with "/" between folders."""

    @abstractmethod
    def listing(self, place: str = "") -> Listing | None:
        """What is in a folder, or None if there is no such folder."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is a file or folder of that name; without listing its folder."""

    @abstractmethod
    def open(self, name: str) -> Opened:
        """A file, to read from.

        Raises:
            FileNotFoundError: if there is none of that name.
            OSError: if it cannot be read.
        """

    @abstractmethod
    def where(self, name: str = "") -> str:
        """The place of a file or folder, for people."""

    @abstractmethod
    def below(self, place: str) -> "FileTree":
        """The part of the tree below a folder."""

    @abstractmethod
    def remember(self) -> None:
        """Keep long listings for the next run."""

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            OSError: if it cannot be read.
        """
        with self.open(name) as file:
            return file.read()

    def folders(self, place: str = "") -> list[str]:
        """Names of the folders in a folder; none if there is no such folder."""
        return (self.listing(place) or Listing()).folders

    def names(self, place: str = "") -> list[str]:
        """Names of the files in a folder; none if there is no such folder."""
        return (self.listing(place) or Listing()).names


class FolderTree(FileTree):
    """A folder on disk.

    Args:
        root: the folder.
        listings: what is known of it from earlier runs; by default what is kept for this folder.
    """

    def __init__(self, root: Path, listings: Listings | None = None):
        self.root = root
        self.listings = listings or Listings(root)

    def listing(self, place: str = "") -> Listing | None:
        """What is in a folder; looked up only if it has changed since the last time."""
        entries = self.listings.entries(self.root / place if place else self.root)
        if entries is None:
            return None
        # sorted anew: with its "/" a folder "a" sorts after "a-b"
        folders = sorted(entry[:-1] for entry in entries if entry.endswith("/"))
        return Listing(folders, [entry for entry in entries if not entry.endswith("/")])

    def open(self, name: str) -> Opened:
        """A file on disk."""
        return open(self.root / name, "rb")

    def where(self, name: str = "") -> str:
        """Its path."""
        return str(self.root / name) if name else str(self.root)

    def has(self, path: str) -> bool:
        """Whether there is a file or folder of that name; without listing its folder."""
        return os.path.lexists(self.root / path)

    def below(self, place: str) -> "FolderTree":
        """A folder in this folder."""
        return FolderTree(self.root / place, self.listings) if place else self

    def remember(self) -> None:
        """Keep long listings beside the data, or in the user's cache where that is read-only."""
        self.listings.save()


class OverlayTree(FileTree):
    """Several trees laid over each other; where two have a file, that of the first counts."""

    def __init__(self, *parts: FileTree):
        self.parts = parts

    def listing(self, place: str = "") -> Listing | None:
        """What any of them has in a folder."""
        found = [part.listing(place) for part in self.parts]
        known = [listing for listing in found if listing is not None]
        return None if not known else known[0] if len(known) == 1 else _union(known)

    def open(self, name: str) -> Opened:
        """The file of the first that has it."""
        for part in self.parts:
            try:
                return part.open(name)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(2, "No such file", self.where(name))

    def has(self, path: str) -> bool:
        """Whether one of them has a file or folder of that name."""
        return any(part.has(path) for part in self.parts)

    def where(self, name: str = "") -> str:
        """The place in the first that has it."""
        holders = [part for part in self.parts if not name or part.has(name)]
        return (holders or self.parts)[0].where(name)

    def below(self, place: str) -> "OverlayTree":
        """The folders of all of them."""
        return OverlayTree(*(part.below(place) for part in self.parts)) if place else self

    def remember(self) -> None:
        """Let each keep its own."""
        for part in self.parts:
            part.remember()


def _union(listings: list[Listing]) -> Listing:
    whole = Listing()
    for listing in listings:
        whole |= listing
    return whole
