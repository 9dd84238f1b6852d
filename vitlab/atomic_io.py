"""Files written at once or not at all, file locks, JSON read as types; the environment of a run."""

import errno
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shlex
import stat
import sys
import warnings
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError

import vitlab
from vitlab.code_version import commit
from vitlab.errors import InputError
from vitlab.terminal import printable

LIMIT = 2**28  # bytes of a file of JSON or YAML


def environment() -> dict:
    """Return what else a number depends on: command, code, versions, hardware."""
    import torch  # not above: verbs that only read files answer in half a second without it

    packages = ("torch", "torchvision", "lightning", "timm", "albumentations", "numpy")
    return {
        "command": shlex.join(sys.argv),
        "vitlab": vitlab.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write_json(path: Path, value: object) -> None:
    """Write a JSON file at once or not at all; NaN and infinity, which JSON lacks, become null."""
    write_bytes(path, json.dumps(plain(value), indent=1, allow_nan=False).encode())


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: lists for tuples, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, see `replacing`."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes the file at the end, or nothing after an error.

    Raises:
        OSError: the disk is full, or fails; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, reason) from error
    finally:
        with suppress(OSError):  # or it would hide what went wrong
            aside.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[TextIO]:
    """Hold a lock file for this process alone, without waiting; its text is for people.

    The lock is the system's, on an open file: it ends with the process, however that ends.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # the latter on some systems
            raise BlockingIOError(*error.args) from error
        except OSError as error:  # such as Lustre without its option
            warnings.warn(
                f"the filesystem of {path.parent} has no locks ({error}); see that no other "
                "process uses it",
                stacklevel=3,
            )
        yield file


def read_regular(path: Path, limit: int = LIMIT) -> bytes:
    """Read a file that others may have written.

    Args:
        path: of the file; a pipe, device or folder is refused before anything waits for it.
        limit: bytes it may have at most.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read; the field is the name of the file.
    """
    name, reason = printable(path), ""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                reason = "it is no file, but a folder, pipe or device"
            elif status.st_size > limit:
                reason = f"it has {status.st_size:,} bytes, more than the {limit:,} allowed"
            else:
                return file.read(limit)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # the latter of a name with a null byte
        reason = getattr(error, "strerror", None) or str(error)
    raise InputError(f"{name} cannot be read: {reason}", field=path.name)


def read_json_as(path: Path, kind: Any, finite: bool = True, limit: int = LIMIT) -> Any:
    """Read a JSON file, which others may have written, as a type.

    Args:
        path: of the file.
        kind: a dataclass, or list, dict, str, int or float, of which pydantic checks every value;
            a dataclass with ``__pydantic_config__ = {"extra": "forbid"}`` refuses unknown keys.
        finite: whether NaN and infinity are refused.
        limit: see `read_regular`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, or holds another type; the field is the name of the file.
    """
    content = read_regular(path, limit).removeprefix(BOM_UTF8)
    try:
        return decode_json(content, kind, finite)
    except (ValueError, RecursionError) as error:
        known = {UnicodeDecodeError: "it is not UTF-8", RecursionError: "it is nested too deep"}
        reason = known.get(type(error)) or printable(error)
        message = f"{printable(path)} cannot be read: {reason}"
        raise InputError(message, field=path.name) from error


def decode_json(content: bytes, kind: Any, finite: bool = True) -> Any:
    """Decode JSON as a type, see `read_json_as`.

    Raises:
        ValueError: the place of the first value of another type, and what is expected there; a key
            that is given twice; an integer of more than 64 bits.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if finite and not math.isfinite(value):
            raise ValueError(f"{digits[:20]} is no finite number")
        return value

    def integer(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) >= 2**63:
            raise ValueError(f"the integer {digits[:20]}... has more than 64 bits")
        return int(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} is there twice")
            found[key] = value
        return found

    hooks: Any = {"parse_float": number, "parse_constant": number, "parse_int": integer}
    json.loads(content.decode(), object_pairs_hook=unique, **hooks)  # which pydantic does not check
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {message}" if place else message) from error
