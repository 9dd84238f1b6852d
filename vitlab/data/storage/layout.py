"""Finding a dataset below the folder that was given, in folders and official archives."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from vitlab.data.errors import DataError
from vitlab.data.storage.archive_tree import ArchiveTree, unpack_in_memory
from vitlab.data.storage.file_tree import FileTree, FolderTree, OverlayTree


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
        small_archive: a .tar.gz that is read into memory where nothing is extracted.
    """

    marks: tuple[str, ...]
    nested: tuple[str, ...] = ("",)
    archives: tuple[OfficialArchive, ...] = ()
    small_archive: str = ""

    def find(self, root: Path) -> tuple[FileTree, Path] | None:
        """Files of the dataset at or below `root`, and where they or their archives lie."""
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
                if not self.lacking(below):
                    return below, folder
        if self.small_archive and (root / self.small_archive).is_file():
            return unpack_in_memory(root / self.small_archive), root
        return None

    def lacking(self, files: FileTree) -> list[str]:
        """The marks that are not there."""
        lacking = []
        for mark in self.marks:
            parent, _, pattern = mark.rpartition("/")
            names = files.folders(parent) + files.names(parent)
            if not any(fnmatch(name, pattern) for name in names):
                lacking.append(mark)
        return lacking

    def packed(self, folder: Path) -> list[tuple[Path, str]]:
        """Archives in a folder that are not extracted, and where their members belong."""
        return [
            (path, archive.at.format(stem=path.stem))
            for archive in self.archives
            for path in sorted(folder.glob(archive.name))
            if path.is_file() and not (folder / archive.holds.format(stem=path.stem)).exists()
        ]


def around(folder: Path) -> list[Path]:
    """A folder and three above it: where files that belong to a dataset may lie."""
    return [folder, *folder.absolute().parents[:3]]
