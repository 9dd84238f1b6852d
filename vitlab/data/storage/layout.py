"""Finding a dataset below the folder that was given, and listing it with exact complaints."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.storage.archives import ArchiveTree
from vitlab.data.storage.files import FileTree, FolderTree, OverlayTree

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Distributed:
    """An archive as its authors distribute it.

    Attributes:
        name: of the file; a pattern if there are several.
        holds: folder of the dataset that it becomes; where that folder exists it is used instead.
        at: folder that the members go to, "" where the archive holds the folder itself;
            `{stem}` stands for the archive's name without ending.
    """

    name: str
    holds: str
    at: str = ""


@dataclass(frozen=True)
class Found:
    """A dataset on disk.

    Attributes:
        files: of the dataset.
        folder: where they, or the archives they are in, lie.
    """

    files: FileTree
    folder: Path


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
    archives: tuple[Distributed, ...] = ()

    def find(self, root: Path) -> Found | None:
        """The dataset at or below `root`, or None.

        Raises:
            DataError: if it is in an archive that is damaged.
        """
        try:
            folders = [root / place for place in self.nested if (root / place).is_dir()]
        except PermissionError as error:
            raise DataError(
                f"cannot look into {root}: {error.strerror}; ask for permission to read it"
            ) from error
        for folder in folders:
            packed = self.packed(folder)
            files = (
                OverlayTree(FolderTree(folder), ArchiveTree(packed))
                if packed
                else FolderTree(folder)
            )
            for place in self.nested if packed else ("",):
                if self.fits(files.below(place)):
                    return Found(files.below(place), folder)
        return None

    def fits(self, files: FileTree) -> bool:
        """Whether all marks are there."""
        return all(_matches(files, mark) for mark in self.marks)

    def packed(self, folder: Path) -> list[tuple[Path, str]]:
        """Archives in a folder that are not extracted, and where their members go."""
        return [
            (path, archive.at.format(stem=path.stem))
            for archive in self.archives
            for path in sorted(folder.glob(archive.name))
            if path.is_file() and not (folder / archive.holds.format(stem=path.stem)).exists()
        ]


@dataclass(frozen=True)
class ClassFolders:
    """Images sorted into one folder for each class.

    Attributes:
        images: path of each image in the tree of files.
        labels: index of its folder in the order of `classes`.
    """

    images: list[str]
    labels: Int64[np.ndarray, " n"]


def subfolders(files: FileTree, place: str = "") -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    listing = files.listing(place)
    if listing is None:
        raise MissingFolderError(_no_folder(files, place))
    return listing.folders


def image_names(files: FileTree, place: str) -> list[str]:
    """Names of the images in a folder, sorted; told by their ending, since looking is slow."""
    listing = files.listing(place)
    if listing is None:
        raise MissingFolderError(_no_folder(files, place))
    return [name for name in listing.names if name.lower().endswith(IMAGE_ENDINGS)]


def list_class_folders(files: FileTree, split: str, classes: tuple[str, ...]) -> ClassFolders:
    """All images of a split that is sorted into class folders.

    Raises:
        DataError: if its folders are not exactly `classes`, or one of them has no image.
    """
    found, folder = set(subfolders(files, split)), files.where(split)
    if found != set(classes):
        raise DataError(
            f"{folder} and the training split hold different classes; only in {split}: "
            f"{few(sorted(found - set(classes)))}; only in training: "
            f"{few(sorted(set(classes) - found))}; both must hold the same class folders"
        )
    if not classes:
        raise DataError(
            f"{folder} has no class folders; sort its images into folders, one for each class (a "
            "single one will do for training without labels)"
        )
    images: list[str] = []
    counts = []
    for name in classes:
        names = image_names(files, f"{split}/{name}")
        if not names:
            raise DataError(
                f"class folder {files.where(f'{split}/{name}')} holds no image directly in it "
                f"(endings: {', '.join(IMAGE_ENDINGS)}); extract its archive again, or move the "
                "images up"
            )
        images += [f"{split}/{name}/{image}" for image in names]
        counts.append(len(names))
    return ClassFolders(images, np.repeat(np.arange(len(classes)), counts))


def require_all(names: Iterable[str], files: FileTree, kind: str) -> None:
    """Complain about files that should be there and are not.

    Args:
        names: of the files.
        files: listed once for each folder, not once for each file.
        kind: what the files are, for the message.
    """
    missing = absent(names, files)
    if missing:
        raise DataError(
            f"{len(missing)} {kind} missing below {files.where()}: {few(missing)}; extract the "
            "archive again, or take their names off the split"
        )


def absent(names: Iterable[str], files: FileTree) -> list[str]:
    """Those of the files that are not there."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in names:
        parent, _, name = path.rpartition("/")
        if parent not in listings:
            listing = files.listing(parent)
            listings[parent] = set(listing.names) if listing else set()
        if name not in listings[parent]:
            missing.append(path)
    return missing


def around(folder: Path) -> list[Path]:
    """A folder and three above it: where things that belong to a dataset may lie beside it."""
    return [folder, *folder.absolute().parents[:3]]


def text(files: FileTree, name: str) -> str:
    """A small text file.

    Raises:
        DataError: if it cannot be read, or is no text.
    """
    try:
        return files.read(name).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", error)
        raise DataError(
            f"cannot read {files.where(name)} as text ({reason}); restore it from the original "
            "archive"
        ) from error


def subclasses(kind: type[Any]) -> list[type[Any]]:
    """All kinds of a kind, and theirs."""
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


def _matches(files: FileTree, mark: str) -> bool:
    parent, _, pattern = mark.rpartition("/")
    listing = files.listing(parent)
    if listing is None:
        return False
    return any(fnmatch(name, pattern) for name in (*listing.folders, *listing.names))


def _no_folder(files: FileTree, place: str) -> str:
    return f"there is no folder {files.where(place)}; check the root, or the name of the split"
