"""A hidden place where files are made, out of sight until they are whole."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vitlab.data.errors import DataError
from vitlab.data.listings import FOLDER

PARTIAL = "partial"
WRITING = "writing"  # the one file that is not whole


@dataclass(frozen=True)
class Workshop:
    """Makes a tree of files beside the folder it is for, on the same file system.

    A file gets its name when all of it is written; the tree gets its place when all its files are.
    A process killed at any moment leaves what is finished for the next one to go on with.

    Attributes:
        folder: where the tree belongs.
        key: tells this tree from others that are made for the folder.
    """

    folder: Path
    key: str

    @property
    def bench(self) -> Path:
        """Where the tree lies until it is whole."""
        return self.folder / FOLDER / PARTIAL / self.key

    def has(self, name: str, size: int) -> bool:
        """Whether a file of that size is finished."""
        try:
            return (self.bench / name).stat().st_size == size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def has_newer(self, name: str, source: Path) -> bool:
        """Whether a file is finished that was made after its source was last changed."""
        try:
            # the time of change, unlike that of content, is new for a file that was moved there
            return (self.bench / name).stat().st_mtime_ns > source.stat().st_ctime_ns
        except FileNotFoundError:
            return False

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Make a file.

        Raises:
            OSError: if it cannot be written; then there is none of that name.
        """
        target, draft = self.bench / name, self.bench.parent / WRITING
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
        os.replace(draft, target)

    def deliver(self) -> None:
        """Move the tree to its place, in as few steps as what is there allows."""
        if self.bench.is_dir():
            _deliver(self.bench, self.folder)


def is_cut(file: Path, chunks: Iterable[bytes]) -> bool:
    """Whether a file is the beginning of the content, and not all of it."""
    with open(file, "rb") as held:
        for chunk in chunks:
            part = held.read(len(chunk))
            if part != chunk:
                return chunk.startswith(part) and not held.read(1)
    return False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others from preparing the same folder; leave nothing hidden behind at success.

    Raises:
        DataError: if another process is at it, or the folder cannot be written.
    """
    place = folder / FOLDER / PARTIAL
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = open(place / "lock", "ab")  # noqa: SIM115, held below
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}); give the folder for what is made with "
            "--out DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process prepares {folder}; wait for it, or end it and run this again"
            ) from error
        except OSError as error:
            # some network file systems have no locks; there the user must take care
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
        yield
        tidy(folder)


def has_unfinished(folder: Path) -> bool:
    """Whether unfinished work is left in a folder."""
    return (folder / FOLDER / PARTIAL).exists()


def tidy(folder: Path) -> None:
    """Remove what is hidden of unfinished work; what others keep there stays."""
    shutil.rmtree(folder / FOLDER / PARTIAL, ignore_errors=True)
    with suppress(OSError):
        (folder / FOLDER).rmdir()


def _deliver(source: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(source, target)
    elif source.is_dir():
        for name in sorted(os.listdir(source)):
            _deliver(source / name, target / name)
        source.rmdir()
    elif is_cut(target, [source.read_bytes()]):
        os.replace(source, target)
    else:  # has come there since we looked, and is not ours to replace
        source.unlink()
