"""Checkpoint files: the tensors of one model, without running code and without wrappers."""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitlab.atomic_io import read_json_as
from vitlab.encoders.vit import PosInterpolation
from vitlab.errors import InputError

StateDict = dict[str, Tensor]  # by the name of the parameter

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# the keys under which programs keep state dicts, several of them in one file
_BRANCHES = (
    *("student", "teacher", "model", "model_ema", "state_dict", "state_dict_ema"),
    *("encoder", "target_encoder"),
)
# put into names by DistributedDataParallel, torch.compile, checkpointing and FSDP, at any place
_WRAPPERS = r"(?<![^.])((_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|module)\.)+"
_PLAIN = ("", "backbone", "model", "encoder")  # parts of names that tell no models apart
_PATCHES = "patch_embed.proj.weight"  # of every vision transformer


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


@dataclass(frozen=True)
class CheckpointSource:
    """The tensors of one model in a file.

    Attributes:
        path: the file or folder.
        branch: the key they were kept under, such as "teacher"; "" where the file is just them.
        state: the tensors, in the names of the program that wrote them.
        spec: `class_path` and `init_args` of the encoder, where vitlab wrote the file.
        ignored: tensors of the model that are not the encoder's, and what they are.
        origin: family that the weights of an exported folder were imported from.
        is_run: whether it is a checkpoint of `vitlab fit`.
    """

    path: Path
    branch: str
    state: StateDict
    spec: dict[str, Any] | None = None
    ignored: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    is_run: bool = False

    def has(self, *parts: str) -> bool:
        """Return whether the name of any tensor contains one of the parts."""
        return any(part in key for key in self.state for part in parts)

    def tensor(self, name: str, axes: int) -> Tensor:
        """Return a tensor that every vision transformer has.

        Raises:
            InputError: it is missing or has another number of axes.
        """
        found = self.state.get(name)
        if found is None or found.ndim != axes:
            raise InputError(
                f"{self.path} is not a vision transformer as ViT knows it: {name} with {axes} axes "
                f"is missing. It holds {few(self.state)}; give the weights of a DINO, DINOv2, "
                "DeiT, timm or LocAtViT transformer",
                field=self.path.name,
            )
        return found


class ModelChoiceError(InputError):
    """A file holds several models, or others than the one asked for; `guess` has one of them."""

    def __init__(self, message: str, guess: list[str]):
        super().__init__(message, field="--which")
        self.guess = guess


def few(names: Mapping | list | tuple, limit: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(list(names)[:limit]) + more


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors, plain values, and dictionaries of them.

    Pickles are read by torch's restricted loader, which refuses all code. The one class allowed
    beyond its own is `argparse.Namespace`, in which DINO and DeiT keep their settings.

    Raises:
        InputError: the file is missing, damaged, holds code, or is of another kind.
    """
    if not path.is_file():
        raise InputError(
            f"there is no file {path}; give a .pth, .pt, .ckpt or .safetensors file",
            field="path",
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
    except Exception as error:  # a damaged pickle can fail in any way
        code = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            reason = f"reading it would run {code[1]}"
        else:
            reason = f"it is damaged or truncated, or holds code ({_first_line(error)})"
        raise InputError(
            f"{path} is refused: {reason}. vitlab reads tensors and plain values alone; copy the "
            "file again or, if you trust it, open it in the program that wrote it and save the "
            "model's state_dict() by itself",
            field=path.name,
        ) from error


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is neither a checkpoint of torch nor a whole "
            f"safetensors file: {_first_line(error)}. If it should be one, copy it again",
            field=path.name,
        ) from error


def stated_rule(path: Path) -> PosInterpolation | None:
    """Return how positions are resampled, where a file that vitlab wrote for timm says so."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        rule = (file.metadata() or {}).get("pos_interpolation")
    return rule if rule in get_args(PosInterpolation) else None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def is_folder(path: Path) -> bool:
    """Return whether the path is an exported encoder."""
    return (path / CONFIG).is_file()


def open_source(path: Path, which: str = "") -> CheckpointSource:
    """Read a file or an exported folder, and choose one of the models in it.

    Raises:
        InputError: it cannot be read, holds no model, or `which` does not fit it.
    """
    if is_folder(path):
        config = read_json_as(path / CONFIG, ExportConfig)
        if not (path / WEIGHTS).is_file():
            raise InputError(
                f"{path} has {CONFIG} but no {WEIGHTS}; export it again", field=WEIGHTS
            )
        _choose(path, [], which)
        spec = {"class_path": config.class_path, "init_args": config.init_args}
        state = _read_safetensors(path / WEIGHTS)
        return CheckpointSource(path, "", state, spec, origin=config.origin)
    content = read_checkpoint(path)
    if "pytorch-lightning_version" in content:
        return _of_run(path, content, which)
    branches = {name: _tensors(content.get(name)) for name in _BRANCHES}
    outer = [name for name in _BRANCHES if branches[name]]
    # the name of a model within the one dict
    within = "" if len(outer) > 1 or which in outer else which
    branch = _choose(path, outer, "" if within else which)
    state = branches[branch] if branch else _tensors(content)
    if not state:
        raise InputError(
            f"{path} holds no tensors but {few(content) or 'nothing'}; give a file with a model's "
            f"state_dict(), by itself or under one of {', '.join(_BRANCHES)}",
            field=path.name,
        )
    state = {re.sub(_WRAPPERS, "", key): value for key, value in state.items()}
    starts = [key.removesuffix(_PATCHES) for key in state if f".{key}".endswith(f".{_PATCHES}")]
    named = {".".join(p for p in start.split(".") if p not in _PLAIN): start for start in starts}
    if len(named) < len(starts):  # plain names alone do not tell them apart
        named = {start.rstrip("."): start for start in starts}
    model = ""
    if len(named) > 1 or within:
        model = _choose(path, [name for name in named if name], within)
    start = named[model] if model in named else "".join(starts[:1])
    inside = {key.removeprefix(start): state[key] for key in state if key.startswith(start)}
    # what stands beside it under the same name, such as teacher.dino_head
    beside = start.rstrip(".").rpartition(".")[0]
    heads = (key for key in state if key.startswith(beside) and not key.startswith((*starts,)))
    ignored = dict.fromkeys(heads, "head of pretraining, beside the backbone")
    return CheckpointSource(path, model or branch, inside, ignored=ignored)


def _of_run(path: Path, content: Mapping, which: str) -> CheckpointSource:
    """Return an encoder of a run of `vitlab fit`."""
    encoders = content.get("encoders")
    if not isinstance(encoders, Mapping) or not encoders:
        raise InputError(
            f"{path} is a checkpoint of Lightning, but not of a `vitlab fit`; give the best.ckpt "
            "or last.ckpt of such a run",
            field=path.name,
        )
    branch = _choose(path, [name for name in encoders if name], which)
    prefix = encoders[branch]["prefix"]
    state = {
        key.removeprefix(prefix): value
        for key, value in _tensors(content["state_dict"]).items()
        if key.startswith(prefix)
    }
    objective = content.get("hyper_parameters", {}).get("objective") or {}
    # as the config describes it: of prompts, with the file of their backbone
    spec = objective.get("init_args", {}).get("encoder") or {}
    spec = spec if "class_path" in spec else encoders[branch]
    spec = {"class_path": spec["class_path"], "init_args": dict(spec.get("init_args") or {})}
    return CheckpointSource(path, branch, state, spec, is_run=True)


def _tensors(content: object) -> StateDict:
    """Return the tensors of a dictionary; none of anything else."""
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(key): value for key, value in items if isinstance(value, Tensor)}


def _choose(path: Path, names: list[str], which: str) -> str:
    """Return the name of the model to take; "" of a file with one that has no name."""
    if which in names or (not which and len(names) < 2):
        return which or "".join(names)
    holds = f"the models {', '.join(names)}" if names else "one model without a name"
    wrong = f", not {which}" if which else ""
    remedy = f"choose one with --which, such as {names[-1]}" if names else "leave --which out"
    raise ModelChoiceError(f"{path} holds {holds}{wrong}; {remedy}", names[-1:])
