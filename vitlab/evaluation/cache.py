"""Tables of frozen features on disk, each a safetensors file that is mapped when it is read.

The name of a file is a hash of all that its tables depend on. It is written aside and renamed, so
that processes may share a folder; two that need a table at once both compute it.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import vitlab
from vitlab import distributed
from vitlab.atomic_io import replacing
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import digest

Tables = dict[str, Tensor]
Key = Mapping[str, str]

SUFFIX = ".safetensors"


class Cache:
    """Tables below a folder that one or many processes share.

    Args:
        folder: is made when first written to; None keeps nothing.
        limit: bytes of all tables; the least recently used ones are removed. A table that is
            larger than this alone is not kept.
    """

    def __init__(self, folder: Path | None, limit: int = 100 * 2**30):
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"the cache folder {folder} cannot be made ({error.strerror}); name another, "
                    "or none",
                    field="--cache",
                ) from error
        self.folder, self.limit = folder, limit

    def table(self, key: Key, make: Callable[[], Tables]) -> Tables:
        """Return the tables of a key, read if they are there, else made and kept.

        To be called on all ranks at once: rank 0 writes, and all read or all make. Tensors that
        were read must not be written to.

        Args:
            key: all that the tables depend on, by name.
            make: computes them, the same on each rank.
        """
        if self.folder is None:
            return make()
        path = self.folder / (digest({**key, "vitlab": vitlab.__version__})[:40] + SUFFIX)
        found = _read(path)
        # a rank on another machine may not see the folder: then all of them make
        if distributed.all_reduce_max([found is None])[0]:
            found = make()
            if distributed.rank() == 0:
                self._write(path, key, found)
        assert found is not None
        with suppress(OSError):
            os.utime(path)  # used now
        return found

    def _write(self, path: Path, key: Key, tables: Tables) -> None:
        """Keep tables where there is room; a full or failing disk is no reason to stop."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tables.items()}
        try:
            if self._room(sum(tensor.nbytes for tensor in kept.values())):
                with replacing(path) as aside:
                    save_file(kept, aside, {"key": json.dumps(dict(key))})
        except (OSError, SafetensorError) as error:  # the latter is what `save_file` makes of it
            warnings.warn(
                f"the cache folder {self.folder} cannot be written, and the evaluation goes on "
                f"without keeping its features: {error}; free space there, or name another folder",
                stacklevel=3,
            )

    def _room(self, size: int) -> bool:
        """Remove the least recently used tables until some bytes fit; return whether they do."""
        assert self.folder is not None
        if size > self.limit:
            warnings.warn(
                f"a table of {size} bytes is larger than the cache's limit of {self.limit} and is "
                "not kept; raise the limit to keep it",
                stacklevel=4,
            )
            return False
        files = [(file, file.stat()) for file in self.folder.glob(f"*{SUFFIX}")]
        files.sort(key=lambda pair: pair[1].st_mtime_ns)
        total = sum(stat.st_size for _, stat in files)
        for file, stat in files:
            if total + size <= self.limit:
                break
            file.unlink(missing_ok=True)  # a process that has it mapped keeps it
            total -= stat.st_size
        return True


def _read(path: Path) -> Tables | None:
    """Return the tables of a file, mapped; None where there is none or, with a warning, damage."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the parser trips over damage in many ways
        warnings.warn(f"{path} cannot be used and is made again: {error}", stacklevel=3)
        return None
