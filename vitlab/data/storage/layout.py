"""Finding a dataset below the folder that was given, in folders and official archives."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.storage.archive_tree import ArchiveTree
from vitlab.data.storage.file_tree import FileTree, FolderTree, Listing, OverlayTree

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class OfficialArchive:
    """An archive as its authors distribute it.

    Attributes:
        name: of the file; a pattern if there are several.
        holds: folder of the dataset that it becomes; where that folder exists it is used instead.
        at: folder that the members belong to, "" where the archive holds the folder itself;
            `{stem}` stands for the archive's name without ending.
    """

    name: str
    holds: str
    at: str = ""


@dataclass(frozen=True)
class Layout:
    """How to recognize a dataset's folder.

    Attributes:
        marks: paths below the folder, whose last part may be a pattern; each must match something.
        nested: where the folder may lie below the one that was given.
        archives: files that are read where they are not extracted.
    """

    marks: tuple[str, ...]
    nested: tuple[str, ...] = ("",)
    archives: tuple[OfficialArchive, ...] = ()

    @property
    def expected(self) -> str:
        """The marks and where they may lie, for messages."""
        places = ", ".join(place or "itself" for place in self.nested)
        return f"expected {', '.join(self.marks)} in it (looked in: {places})"

    def find(self, root: Path) -> tuple[FileTree, Path] | None:
        """Files of the dataset at or below `root`, and where they or their archives lie; or None.

        Raises:
            DataError: it is in an archive that is damaged.
        """
        try:
            folders = [root / place for place in self.nested if (root / place).is_dir()]
        except PermissionError as error:
            raise DataError(
                f"cannot look into {root}: {error.strerror}; ask for permission to read it",
            ) from error
        for folder in folders:
            packed = self.packed(folder)
            files: FileTree = FolderTree(folder)
            if packed:
                files = OverlayTree(files, ArchiveTree(packed))
            for place in self.nested if packed else ("",):
                below = files.below(place) if place else files
                if self.fits(below):
                    return below, folder
        return None

    def fits(self, files: FileTree) -> bool:
        """Whether all marks are there."""
        for mark in self.marks:
            parent, _, pattern = mark.rpartition("/")
            listing = files.listing(parent) or Listing()
            names = listing.folders + listing.names
            if not any(fnmatch(name, pattern) for name in names):
                return False
        return True

    def packed(self, folder: Path) -> list[tuple[Path, str]]:
        """Archives in a folder that are not extracted, and where their members belong."""
        return [
            (path, archive.at.format(stem=path.stem))
            for archive in self.archives
            for path in sorted(folder.glob(archive.name))
            if path.is_file() and not (folder / archive.holds.format(stem=path.stem)).exists()
        ]


def subfolders(files: FileTree, folder: str = "") -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    return _listing(files, folder).folders


def image_names(files: FileTree, folder: str) -> list[str]:
    """Names of the images in a folder, sorted; by their ending, since opening files is slow."""
    names = _listing(files, folder).names
    return [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]


def absent(paths: Iterable[str], files: FileTree) -> list[str]:
    """Those of the paths that are not there; each folder is listed once."""
    names: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in names:
            names[parent] = set(files.names(parent))
        if name not in names[parent]:
            missing.append(path)
    return missing


def around(folder: Path) -> list[Path]:
    """A folder and three above it: where files that belong to a dataset may lie."""
    return [folder, *folder.absolute().parents[:3]]


def text(files: FileTree, path: str) -> str:
    """A small text file.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        return files.read(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", error)
        raise DataError(
            f"cannot read {files.where(path)} as text ({reason}); restore it from the original "
            "archive",
            field=path,
        ) from error


def subclasses(kind: type[Any]) -> list[type[Any]]:
    """All subclasses of a class, and theirs."""
    return [each for own in kind.__subclasses__() for each in (own, *subclasses(own))]


def few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3]) or "none"
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


def _listing(files: FileTree, folder: str) -> Listing:
    listing = files.listing(folder)
    if listing is None:
        raise MissingFolderError(
            f"there is no folder {files.where(folder)}; check the root, or the name of the split",
        )
    return listing
