"""Finding a dataset below the folder that was given, and listing it with exact complaints."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vitlab.data.samples import DataError

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Layout:
    """How to recognize a dataset's folder.

    Attributes:
        marks: glob patterns below the folder; each must match something.
        nested: where the folder may lie below the one that was given.
    """

    marks: tuple[str, ...]
    nested: tuple[str, ...] = ("",)

    def find(self, root: Path) -> Path | None:
        """The dataset's folder at or below `root`, or None."""
        for place in self.nested:
            folder = root / place
            if folder.is_dir() and all(any(folder.glob(mark)) for mark in self.marks):
                return folder
        return None


@dataclass(frozen=True)
class ClassFolders:
    """Images sorted into one folder for each class.

    Attributes:
        images: path of each image below the split's folder.
        labels: index of its folder in the order of `classes`.
    """

    images: list[str]
    labels: Int64[np.ndarray, " n"]


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; check the root, or the name of the split")
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def image_names(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted; told by their ending, since looking is slow."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; check the root, or the name of the split")
    names = os.listdir(folder)
    return sorted(n for n in names if n.lower().endswith(IMAGE_ENDINGS) and n[0] != ".")


def list_class_folders(folder: Path, classes: tuple[str, ...]) -> ClassFolders:
    """All images of a split that is sorted into class folders.

    Raises:
        DataError: if its folders are not exactly `classes`, or one of them has no image.
    """
    found = set(subfolders(folder))
    if found != set(classes):
        raise DataError(
            f"{folder} and the training split hold different classes; only in {folder.name}: "
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
        files = image_names(folder / name)
        if not files:
            raise DataError(
                f"class folder {folder / name} holds no image directly in it (endings: "
                f"{', '.join(IMAGE_ENDINGS)}); extract its archive again, or move the images up"
            )
        images += [f"{name}/{file}" for file in files]
        counts.append(len(files))
    return ClassFolders(images, np.repeat(np.arange(len(classes)), counts))


def require_all(files: Iterable[str], folder: Path, kind: str) -> None:
    """Complain about files that should lie in a folder and do not.

    Args:
        files: paths below `folder`.
        folder: looked into once for each of its folders, not once for each file.
        kind: what the files are, for the message.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, _, name = file.rpartition("/")
        if parent not in listings:
            place = folder / parent
            listings[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in listings[parent]:
            missing.append(file)
    if missing:
        raise DataError(
            f"{len(missing)} {kind} missing below {folder}: {few(missing)}; extract the archive "
            "again, or take their names off the split"
        )


def few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3]) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
