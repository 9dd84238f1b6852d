"""Tables of frozen features on disk: each is made once, and never read for anything else.

A table is one safetensors file, mapped into memory when it is read. Its name is a hash of all that
it depends on, which its header states in full, beside a checksum. It is written aside and renamed.
A lock beside it is held while it is made (one process makes, others wait) and, shared, while it is
in use (nobody removes it). The system drops a lock with the process that holds it.
"""

import fcntl
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import vitlab
from vitlab import distributed
from vitlab.evaluation.fingerprint import digest

Tables = dict[str, Tensor]
Key = Mapping[str, str]

VERSION = "1"  # raised when the meaning of a table changes
SUFFIX = ".safetensors"


class Cache:
    """Tables below a folder that one or many processes share.

    Args:
        folder: is made when first written to; None keeps nothing.
        limit: bytes of all tables; those that were used longest ago leave, except any in use.
            A table that is larger than this alone is not kept.
    """

    def __init__(self, folder: Path | None, limit: int = 100 * 2**30):
        if limit < 0:
            raise ValueError(f"a cache of {limit} bytes makes no sense; use 0 or more")
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"the cache folder {folder} cannot be made ({error.strerror}); name another, "
                    "or none"
                ) from error
        self.folder, self.limit = folder, limit

    @contextmanager
    def table(self, key: Key, make: Callable[[], Tables]) -> Iterator[Tables]:
        """Give the tables of a key, read if they are there, else made and kept.

        Call it on all ranks at once: rank 0 reads and writes; the others read what it found, or
        take part in making. Tensors that were read must not be written to.

        Args:
            key: all that the tables depend on, by name.
            make: computes them, the same on each rank.
        """
        if self.folder is None:
            yield make()
            return
        key = {"version": VERSION, **key}
        path = self.folder / (digest({**key, "vitlab": vitlab.__version__})[:40] + SUFFIX)
        with ExitStack() as held:
            lock, found = None, None
            if distributed.rank() == 0:
                with _surviving(self.folder):  # a full disk has no room for a lock either
                    lock = held.enter_context(_opened(path.with_suffix(".lock")))
                    fcntl.flock(lock, fcntl.LOCK_SH)
                    found = _read(path, key)
                    if found is None:
                        # from here on alone; another process may have made it in the meantime
                        fcntl.flock(lock, fcntl.LOCK_EX)
                        found = _read(path, key)
            if _agreed(found is not None or distributed.rank() > 0) and distributed.rank() > 0:
                found = _read(path, key, check=False)
            # a rank on another machine may not see the folder: then all of them make
            if not _agreed(found is not None):
                found = make()
                if lock is not None:
                    with _surviving(self.folder):
                        if self._room(path, found):
                            _write(path, key, found)
            if lock is not None:
                with suppress(OSError):
                    os.utime(path)  # used now
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_SH)
            assert found is not None
            yield found

    def _room(self, path: Path, tables: Tables) -> bool:
        """Remove what was used longest ago, until the tables fit; say whether they do."""
        assert self.folder is not None
        size = sum(tensor.nbytes for tensor in tables.values())
        if size > self.limit:
            warnings.warn(
                f"a table of {size} bytes is larger than the cache's limit of {self.limit} and is "
                "not kept; raise the limit to keep it",
                stacklevel=4,
            )
            return False
        files = [(file, file.stat()) for file in self.folder.glob(f"*{SUFFIX}") if file != path]
        files.sort(key=lambda pair: pair[1].st_mtime_ns)
        total = sum(stat.st_size for _, stat in files)
        for file, stat in files:
            if total + size <= self.limit:
                break
            if _remove(file):
                total -= stat.st_size
        return True


def _agreed(yes: bool) -> bool:
    """Whether all ranks say so."""
    if distributed.world_size() == 1:
        return yes
    answers: list[bool | None] = [None] * distributed.world_size()
    dist.all_gather_object(answers, yes)
    return all(answers)


@contextmanager
def _surviving(folder: Path) -> Iterator[None]:
    """Go on with a warning where the folder fails: the disk is full, or not to be written to."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter is what `save_file` makes of it
        warnings.warn(
            f"the cache folder {folder} cannot be written, and the evaluation goes on without "
            f"keeping its features: {error}; free space there, or name another folder",
            stacklevel=5,
        )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _read(path: Path, key: Key, check: bool = True) -> Tables | None:
    """Return the tables of a file, mapped; None where there is none or, with a warning, damage."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            if json.loads(header["key"]) != dict(key):
                raise ValueError("it was made from something else")
            tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sums = json.loads(header["sums"])
        if check and sums != {name: _sum(tensor) for name, tensor in tables.items()}:
            raise ValueError("its checksum differs")
    except Exception as error:  # the parser trips over damage in many ways
        warnings.warn(f"{path} cannot be used and is made again: {error}", stacklevel=4)
        return None
    return tables


def _write(path: Path, key: Key, tables: Tables) -> None:
    aside = path.with_suffix(f".{os.getpid()}.part")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tables.items()}
    sums = {name: _sum(tensor) for name, tensor in kept.items()}
    try:
        _sweep(path)
        save_file(kept, aside, {"key": json.dumps(dict(key)), "sums": json.dumps(sums)})
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.rename(path)
    finally:
        with suppress(OSError):  # or it would hide what went wrong
            aside.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of this table; its lock is held."""
    for left in path.parent.glob(f"{path.stem}.*.part"):
        left.unlink(missing_ok=True)


def _remove(path: Path) -> bool:
    """Remove a table that nobody uses; return whether it is gone."""
    with _opened(path.with_suffix(".lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True


def _sum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data)
