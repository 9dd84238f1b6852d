"""Checkpoint files: tensors are read without running code."""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vitlab.atomic_io import read_json_as
from vitlab.errors import InputError

StateDict = dict[str, Tensor]  # by the name of the parameter

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ExportConfig:
    """Content of `config.json` in the folder of an exported encoder.

    Attributes:
        class_path: class of the encoder.
        init_args: its arguments.
        origin: family of the weights, which decides how pixels are normalized.
        format: of the folder.
    """

    class_path: str
    init_args: dict[str, Any]
    origin: str
    format: Literal["vitlab encoder 2"] = "vitlab encoder 2"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors, plain values, and dictionaries of them.

    Pickles are read by torch's restricted loader, which refuses all code. The one class allowed
    beyond its own is `argparse.Namespace`, in which DINO and DeiT keep their settings.

    Raises:
        InputError: the file is missing, damaged, holds code, or is of another kind.
    """
    if path.is_dir():
        inside = [name for name in ("best.ckpt", "last.ckpt", WEIGHTS) if (path / name).exists()]
        hint = f"name a file in it: {', '.join(inside)}" if inside else "name a file"
        raise InputError(
            f"{path} is a folder without {CONFIG}, so no export of vitlab; {hint}", field="path"
        )
    if not path.is_file():
        raise InputError(
            f"there is no file {path}; give a .pth, .pt, .ckpt or .safetensors file", field="path"
        )
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors begin with the length of a JSON header, which may look like a pickle's first byte
    zipped, pickled = start[:4] == b"PK\x03\x04", start[:1] == b"\x80" and start[8:] != b"{"
    content = _unpickle(path, zipped) if zipped or pickled else _read_safetensors(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors; save the "
            "model's state_dict()",
            field=path.name,
        )
    return dict(content)


def _unpickle(path: Path, zipped: bool) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"reading it would run {code[1]}" if code else "it is damaged or holds code"
        raise InputError(
            f"{path} is refused: {reason}. vitlab reads tensors and plain values alone; if you "
            "trust the file, open it in the program that wrote it and save the model's "
            "state_dict() by itself",
            field=path.name,
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{path} cannot be read as a checkpoint of torch: {_first_line(error)}; it is damaged "
            "or truncated. Compare its size with the original's and copy it again",
            field=path.name,
        ) from error


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is neither a checkpoint of torch nor a whole "
            f"safetensors file: {_first_line(error)}. If it should be one, compare its size with "
            "the original's and copy it again",
            field=path.name,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def is_folder(path: Path) -> bool:
    """Return whether the path is an exported encoder."""
    return (path / CONFIG).is_file()


def read_folder(path: Path) -> tuple[ExportConfig, StateDict]:
    """Return the config and the tensors of an exported encoder.

    Raises:
        InputError: the folder is of another kind or version, or damaged.
    """
    config = read_json_as(path / CONFIG, ExportConfig)
    if not (path / WEIGHTS).is_file():
        raise InputError(f"{path} has {CONFIG} but no {WEIGHTS}; export it again", field=WEIGHTS)
    return config, _read_safetensors(path / WEIGHTS)
