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
LIMIT = 100 * 2**30  # bytes of a folder; the least recently used tables leave


def cached(folder: Path | None, key: Key, make: Callable[[], Tables]) -> Tables:
    """Return the tables of a key, read if they are there, else made and kept.

    To be called on all ranks at once: rank 0 writes, and all read or all make. Tensors that were
    read must not be written to.

    Args:
        folder: is made when it is missing; None keeps nothing.
        key: all that the tables depend on, by name.
        make: computes them, the same on each rank.

    Raises:
        InputError: the folder cannot be made.
    """
    if folder is None:
        return make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be made ({error.strerror}); name another, or none",
            field="--cache",
        ) from error
    path = folder / (digest({**key, "vitlab": vitlab.__version__})[:40] + SUFFIX)
    found = _read(path)
    # a rank on another machine may not see the folder: then all of them make
    if distributed.all_reduce_max([found is None])[0]:
        found = make()
        if distributed.rank() == 0:
            _write(path, key, found)
    assert found is not None
    with suppress(OSError):
        os.utime(path)  # used now
    return found


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


def _write(path: Path, key: Key, tables: Tables) -> None:
    """Keep tables where there is room; a full or failing disk is no reason to stop."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tables.items()}
    try:
        _make_room(path.parent, sum(tensor.nbytes for tensor in kept.values()))
        with replacing(path) as aside:
            save_file(kept, aside, {"key": json.dumps(dict(key))})
    except (OSError, SafetensorError) as error:  # the latter is what `save_file` makes of it
        warnings.warn(
            f"the cache folder {path.parent} cannot be written, and the evaluation goes on "
            f"without keeping its features: {error}; free space there, or name another folder",
            stacklevel=3,
        )


def _make_room(folder: Path, size: int) -> None:
    """Remove the least recently used tables until some bytes fit."""
    if size > LIMIT:
        raise OSError(f"a table of {size} bytes is larger than the cache's limit of {LIMIT}")
    files = [(file, file.stat()) for file in folder.glob(f"*{SUFFIX}")]
    files.sort(key=lambda pair: pair[1].st_mtime_ns)
    total = sum(stat.st_size for _, stat in files)
    for file, stat in files:
        if total + size <= LIMIT:
            break
        file.unlink(missing_ok=True)  # a process that has it mapped keeps it
        total -= stat.st_size
