"""What long listings and indices found, kept for the next run."""

import errno
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.data.errors import DataError

VERSION = 1  # raise it when the meaning of a kept array changes
LARGE = 10_000  # entries from which keeping them is worth a file
# a folder changed so recently may change again within the resolution of its time stamp
SETTLED = 2_000_000_000  # nanoseconds
FOLDER = ".vitlab"

Arrays = Mapping[str, np.ndarray]


def recall(home: Path, name: str, keys: Collection[str]) -> dict[str, np.ndarray] | None:
    """Arrays kept for a folder under a name, the latest ones, or None; never unpickles."""
    files = [place / f"{name}.npz" for place in (home / FOLDER, _elsewhere(home))]
    # what lies beside the data may be older than the cache of a user who cannot write there
    for file in sorted(filter(os.path.isfile, files), key=lambda file: -file.stat().st_mtime_ns):
        try:
            with open(file, "rb") as source, np.load(source, allow_pickle=False) as kept:
                if int(kept["version"]) == VERSION:
                    return {key: kept[key] for key in keys}
        except Exception as error:  # the parser trips over damage in many ways
            # listing again mends it; saying so tells why this start takes longer
            warnings.warn(f"{file} cannot be used and is made again: {error}", stacklevel=2)
    return None


def keep(home: Path, name: str, arrays: Arrays) -> None:
    """Keep arrays for a folder: in it, or, said so, in the user's cache where it is read-only."""
    try:
        _write(home / FOLDER / f"{name}.npz", arrays)
    except OSError as error:
        place = _elsewhere(home)
        try:
            _write(place / f"{name}.npz", arrays)
        except OSError as second:
            warnings.warn(
                f"neither {home} ({error.strerror}) nor {place} ({second.strerror}) can be "
                "written, so the next start lists the data again; set XDG_CACHE_HOME to a folder "
                "that can",
                stacklevel=2,
            )
            return
        warnings.warn(
            f"{home} cannot be written ({error.strerror}); the index of its files is kept in "
            f"{place}",
            stacklevel=2,
        )


class Listings:
    """Entries of folders, each listed again only when its time of change is another.

    Args:
        home: the folder whose parts are listed; the listings are kept for it.
    """

    def __init__(self, home: Path):
        self.home = home
        self.known: dict[str, tuple[int, list[str]]] = {}
        self.recalled = False
        self.changed = False

    def entries(self, folder: Path) -> list[str] | None:
        """Visible entries of a folder, sorted, folders with a "/" at the end; None if it is none.

        A link that leads nowhere or to itself counts as a file: reading it will tell.
        """
        self._recall()
        key = os.path.relpath(folder, self.home)
        try:
            state = os.stat(folder)
            # extracting and copying may set the time of change back, but not that of the state
            changed = max(state.st_mtime_ns, state.st_ctime_ns)
            if key in self.known and self.known[key][0] == changed:
                return self.known[key][1]
            began = time.time_ns()
            with os.scandir(folder) as found:
                entries = sorted(_entry(entry) for entry in found if entry.name[0] != ".")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise DataError(
                f"cannot list {folder}: {error.strerror}; ask for permission to read it"
            ) from error
        if began - changed > SETTLED:
            self.known[key] = (changed, entries)
            self.changed = True
        return entries

    def save(self) -> None:
        """Keep the listings if they are long and new, and let go of them."""
        self._keep()
        self.known, self.recalled = {}, False

    def __getstate__(self) -> dict[str, object]:
        """Leave behind what is known: workers read files, they do not list them."""
        return self.__dict__ | {"known": {}, "recalled": False, "changed": False}

    def _keep(self) -> None:
        if not self.changed or sum(len(entries) for _, entries in self.known.values()) < LARGE:
            return
        places = sorted(self.known)
        entries = [entry for place in places for entry in self.known[place][1]]
        arrays = {
            "places": np.array([os.fsencode(place) for place in places]),
            "changed": np.array([self.known[place][0] for place in places]),
            "counts": np.array([len(self.known[place][1]) for place in places]),
            "entries": np.array([os.fsencode(entry) for entry in entries]),
        }
        keep(self.home, "listing", arrays)
        self.changed = False

    def _recall(self) -> None:
        if self.recalled:
            return
        self.recalled = True
        kept = recall(self.home, "listing", ("places", "changed", "counts", "entries"))
        if kept is None:
            return
        ends = np.cumsum(kept["counts"])
        entries = [os.fsdecode(entry) for entry in kept["entries"].tolist()]
        for place, changed, end, count in zip(
            kept["places"].tolist(), kept["changed"].tolist(), ends, kept["counts"], strict=True
        ):
            self.known[os.fsdecode(place)] = (changed, entries[end - count : end])


def _entry(entry: os.DirEntry[str]) -> str:
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name
    except OSError:  # a link to itself
        return entry.name


def _elsewhere(home: Path) -> Path:
    """The folder of the user's cache for a dataset's folder."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        cache = tempfile.gettempdir()
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    return Path(cache) / "vitlab" / name


def _write(file: Path, arrays: Arrays) -> None:
    """All or nothing: another process may read at any time."""
    if not file.parent.is_dir():
        file.parent.mkdir(parents=True)
        os.chmod(file.parent, 0o755)  # others may share the data
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as partial:
        try:
            fields: Any = {"version": np.array(VERSION), **arrays}
            np.savez(partial, **fields)
            os.chmod(partial.name, 0o644)
            os.replace(partial.name, file)
        except BaseException:
            os.unlink(partial.name)
            raise
