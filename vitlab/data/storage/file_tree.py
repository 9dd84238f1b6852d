"""Trees of files: a folder on disk, files in memory, or several trees laid over each other."""

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vitlab.data.errors import DataError, MissingFolderError
from vitlab.terminal import printable

# those of torchvision's ImageFolder
IMAGE_ENDINGS = (
    *(".jpeg", ".jpg", ".png", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)


class Listing(NamedTuple):
    """Sorted names in a folder, of its folders and of all else; without hidden entries."""

    folders: list[str]
    names: list[str]


class FileTree(ABC):
    """A tree of files. Paths are relative to its root, with "/" between folders."""

    @abstractmethod
    def listing(self, folder: str = "") -> Listing | None:
        """Content of a folder, or None if there is none of that path."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is such a file or folder; its folder is not listed."""

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
        """All bytes of a file; raises OSError as `open` does."""
        with self.open(path) as file:
            return file.read()

    def size(self, path: str) -> int:
        """Bytes of a file, as far as they are known without reading it; raises OSError."""
        return len(self.read(path))

    def text(self, path: str) -> str:
        """A small text file."""
        try:
            return self.read(path).decode("utf-8-sig")  # a list may begin with a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read {self.where(path)} as text ({error}); restore it from the original "
                "archive",
                field=path,
            ) from error

    def require(self, folder: str) -> Listing:
        """Content of a folder."""
        listing = self.listing(folder)
        if listing is None:
            above = folder.rpartition("/")[0]
            raise MissingFolderError(
                f"there is no folder {self.where(folder)}; check the root, or the name of the "
                f"split: {self.where(above)} holds {self.describe(above)}"
            )
        return listing

    def images(self, folder: str) -> list[str]:
        """Names of the images in a folder, by their ending, since opening files is slow."""
        return [name for name in self.require(folder).names if name.lower().endswith(IMAGE_ENDINGS)]

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder; none if there is no such folder."""
        return (self.listing(folder) or Listing([], [])).folders

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder; none if there is no such folder."""
        return (self.listing(folder) or Listing([], [])).names

    def describe(self, folder: str = "") -> str:
        """What lies in a folder, in words: its folders, and how many files of each ending."""
        folders, names = self.listing(folder) or Listing([], [])
        endings = Counter(PurePosixPath(name).suffix for name in names).most_common(4)
        parts = [f"the folders {few(folders)}"] * bool(folders)
        parts += [f"{count:,} {printable(end) or 'nameless'} files" for end, count in endings]
        return " and ".join(parts) or "nothing"

    def absent(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths that are not there; each folder is listed once."""
        names: dict[str, set[str]] = {}
        missing = []
        for path in paths:
            parent, _, name = path.rpartition("/")
            if parent not in names:
                names[parent] = set(self.names(parent))
            if name not in names[parent]:
                missing.append(path)
        return missing


@dataclass(frozen=True)
class FolderTree(FileTree):
    """A folder on disk."""

    root: Path

    def listing(self, folder: str = "") -> Listing | None:
        """A link that leads nowhere or to itself counts as a file: reading it raises an error."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted((e.name, _is_folder(e)) for e in entries if e.name[0] != ".")
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
        """A link to nowhere counts."""
        return os.path.lexists(self.root / path)

    def open(self, path: str) -> BufferedReader:
        """A file on disk; of a pipe or device, which may never answer, an error."""
        file = open(os.open(self.root / path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "it is no file, but a folder, pipe or device")
        return file

    def size(self, path: str) -> int:
        """As the system knows it."""
        return os.stat(f"{self.root}/{path}").st_size

    def where(self, path: str = "") -> str:
        """Its path."""
        return printable(self.root / path)

    def below(self, folder: str) -> "FolderTree":
        """A folder in this folder."""
        return FolderTree(self.root / folder)


@dataclass(frozen=True)
class MemoryTree(FileTree):
    """Files in memory, without folders.

    Attributes:
        contents: of each file, by its name.
        place: where they come from, for messages.
    """

    contents: Mapping[str, bytes]
    place: str

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
        return printable(f"{self.place}:{path}" if path else self.place)

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
        merged = (sorted(set().union(*names)) for names in zip(*found, strict=True))
        return Listing(*merged) if found else None

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

    def size(self, path: str) -> int:
        """That of the first that has it."""
        return next((p for p in self.parts if p.has(path)), self.parts[0]).size(path)

    def where(self, path: str = "") -> str:
        """The place in the first that has it."""
        return next((p for p in self.parts if not path or p.has(path)), self.parts[0]).where(path)

    def below(self, folder: str) -> "OverlayTree":
        """The folders of all of them."""
        return OverlayTree(*(part.below(folder) for part in self.parts))


def few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(map(printable, names[:3])) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ranges(values: Iterable[int]) -> str:
    """Values in words: 0-20, 255."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
