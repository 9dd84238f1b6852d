"""Read tensors from files of others without running anything; write ours at once or not at all."""

import argparse
import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

StateDict = dict[str, Tensor]  # by the name of the parameter

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_FORMAT = "vitlab encoder 1"


def read(path: Path) -> dict:
    """Return what a checkpoint holds: a dictionary of tensors, of more dictionaries, of values.

    Pickles are read by torch's restricted loader, which refuses all code. The one class allowed
    beyond its own is `argparse.Namespace`, in which DINO and DeiT keep their settings.

    Raises:
        ValueError: there is no such file, it is damaged, it would run code, or is something else.
    """
    if path.is_dir():
        inside = [name for name in ("best.ckpt", "last.ckpt", WEIGHTS) if (path / name).exists()]
        hint = f"name a file in it: {', '.join(inside)}" if inside else "name a file"
        raise ValueError(f"{path} is a folder without {CONFIG}, so no export of vitlab; {hint}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a .pth, .pt, .ckpt or .safetensors file")
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors begin with the length of a JSON header, which may look like a pickle's first byte
    zipped, pickled = start[:4] == b"PK\x03\x04", start[:1] == b"\x80" and start[8:] != b"{"
    content = _unpickle(path, zipped) if zipped or pickled else _safetensors(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors; save the "
            "model's state_dict()"
        )
    return dict(content)


def _unpickle(path: Path, zipped: bool) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"reading it would run {found[1]}" if found else "it is damaged or holds code"
        raise ValueError(
            f"{path} is refused: {reason}. vitlab reads tensors and plain values alone; if you "
            "trust the file, open it in the program that wrote it and save the model's "
            "state_dict() by itself"
        ) from error
    # a damaged pickle can fail in any way
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint of torch: {_first_line(error)}; it is damaged "
            "or truncated. Compare its size with the original's and copy it again"
        ) from error


def _safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is neither a checkpoint of torch nor a whole "
            f"safetensors file: {_first_line(error)}. If it should be one, compare its size with "
            "the original's and copy it again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def is_folder(path: Path) -> bool:
    """Return whether the path is an encoder that vitlab exported."""
    return (path / CONFIG).is_file()


def read_folder(path: Path) -> tuple[dict, StateDict]:
    """Return the arguments of the encoder and its tensors, from a folder vitlab exported.

    Raises:
        ValueError: the folder is not of this kind, or damaged.
    """
    try:
        settings = json.loads((path / CONFIG).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path / CONFIG} cannot be read: {_first_line(error)}; give a folder that `export` "
            "wrote"
        ) from error
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != _FORMAT:
        raise ValueError(
            f"{path / CONFIG} is of format {found!r}; this version reads {_FORMAT!r} alone. Give a "
            "folder that `export` wrote, or the weights file in it and its family"
        )
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} has {CONFIG} but no {WEIGHTS}; export it again")
    return settings["ViT"], _safetensors(path / WEIGHTS)


def origin_of(path: Path) -> str:
    """Return the family that the weights in a folder of ours were imported from, if any."""
    settings = json.loads((path / CONFIG).read_text())
    return str(settings.get("origin", "vitlab"))


def write_folder(path: Path, config: dict, state: StateDict, origin: str = "vitlab") -> None:
    """Write an encoder as a folder that describes itself: `config.json`, `model.safetensors`.

    Args:
        path: of the folder, which must not exist.
        config: arguments of ViT, as JSON.
        state: its tensors.
        origin: family of the weights, which decides what pixels they take.

    Raises:
        ValueError: the path exists.
    """
    aside = _aside(path)
    settings = {"format": _FORMAT, "origin": origin, "ViT": config}
    try:
        aside.mkdir()
        (aside / CONFIG).write_text(json.dumps(settings, indent=1) + "\n")
        save_file(state, aside / WEIGHTS, {"format": "pt"})
        for file in aside.iterdir():
            _flush(file)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_file(path: Path, state: StateDict, metadata: dict[str, str]) -> None:
    """Write a safetensors file, at once or not at all.

    Args:
        path: of the file, which must not exist.
        state: the tensors.
        metadata: texts for its header.

    Raises:
        ValueError: the path exists.
    """
    aside = _aside(path)
    try:
        save_file(state, aside, {"format": "pt", **metadata})
        _flush(aside)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    if path.exists():
        raise ValueError(f"{path} exists, and is not overwritten; name another path or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")


def _flush(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())
