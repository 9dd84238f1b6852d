"""What every kept number needs: a file written at once, and what else it depends on."""

import errno
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

import vitlab


def environment() -> dict:
    """Return what else a number depends on: command, code, versions, hardware."""
    packages = ("torch", "torchvision", "lightning", "timm", "albumentations", "numpy")
    here = Path(vitlab.__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": shlex.join(sys.argv),
        "vitlab": vitlab.__version__,
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "cores": os.cpu_count(),
        "devices": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def write_json(path: Path, value: object) -> None:
    """Write a JSON file at once or not at all."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once or not at all.

    Raises:
        OSError: the disk is full, or fails; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OSError:
    """Return an error of writing with the name of the file that was to be written."""
    reason = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{path} cannot be written: {reason}")
