"""What stands for an encoder and for a dataset in a result and in the name of a cached table."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from vitlab.data import VisionDataModule
from vitlab.data.samples import Samples, spread
from vitlab.encoders import Encoder

# torch's own state in every module; what it holds of ours is met by its own name
OF_TORCH = {*vars(nn.Module()), "_compiled_call_impl"}


def fingerprint(encoder: Encoder) -> str:
    """Return sha256 over all of an encoder that can be hashed, sorted by name.

    That is its tensors (in a checkpoint or not), and the classes and plain attributes of its
    modules. What cannot be hashed stands for its class alone; see `unknown`.
    """
    state = _state(encoder)
    return digest(
        {name: _described(value, []) for name, value in [*state.items(), *_attributes(encoder)]}
    )


def unknown(encoder: Encoder) -> list[str]:
    """Return what of an encoder may change its features and is not in its fingerprint, by name.

    An encoder with a `config` is trusted to be what that says: of it, only hooks, replaced methods
    and what cannot be hashed in the config itself are named.
    """
    missed: list[str] = []
    told = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, Encoder) and getattr(module, "config", None)
    ]
    for name, value in _state(encoder).items():
        if not _whole(value):  # weights are not hashed for it
            _described(value, missed, name)
    for name, value in _attributes(encoder):
        owner, _, attribute = name.rpartition(" ")
        trusted = any(not each or f"{owner}.".startswith(f"{each}.") for each in told)
        replaced = callable(getattr(type(encoder.get_submodule(owner)), attribute, None))
        if not trusted or replaced or attribute == "config":
            _described(value, missed, f"{owner}.{attribute}".removeprefix("."))
    for name, module in encoder.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            missed.append(f"hooks of {name or type(module).__name__}")
    return missed


def _state(encoder: Encoder) -> dict[str, Any]:
    """Return parameters, all buffers, and what else a checkpoint would hold."""
    own = [*encoder.named_parameters(remove_duplicate=False)]
    return {
        **dict(own),
        **dict(encoder.named_buffers(remove_duplicate=False)),
        **encoder.state_dict(),
    }


def _attributes(encoder: Encoder) -> Iterator[tuple[str, Any]]:
    """Yield the class and the attributes of each module, as "path attribute"."""
    for name, module in encoder.named_modules():
        yield f"{name} class", _place(type(module))
        for key, value in vars(module).items():
            if key not in OF_TORCH:
                yield f"{name} {key}", value


def _whole(value: Any) -> bool:
    """Whether it is a tensor of which `digest` sees every number."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def _described(value: Any, missed: list[str], name: str = "") -> Any:
    """Return a value as `digest` takes it; what cannot be hashed is added to those that missed."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    plain = isinstance(value, np.ndarray) and not value.dtype.hasobject
    if _whole(value) or plain or isinstance(value, bytes):
        return digest({"": value})
    if type(value) in (list, tuple, torch.Size):
        return [_described(each, missed, name) for each in value]
    if type(value) is dict:
        # pairs, for JSON would take 1 and "1" for the same
        return [[_described(each, missed, name) for each in pair] for pair in value.items()]
    if isinstance(value, torch.dtype | torch.device):
        return value.type if isinstance(value, torch.device) else str(value)  # of any rank
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in fields(value)}
        own |= getattr(value, "__dict__", {})
        return [_place(type(value)), *_described(own, missed, name)]
    if _importable(value):
        return _place(value)
    missed.append(name)
    return _place(type(value))


def _importable(value: Any) -> bool:
    """Whether a function or class can be only the one of its name, as `torch.relu`."""
    if isinstance(value, FunctionType) and value.__closure__ is not None:
        return False
    if isinstance(value, BuiltinFunctionType) and not isinstance(
        value.__self__, ModuleType | type | None
    ):
        return False
    known = isinstance(value, FunctionType | BuiltinFunctionType | type)
    return known and "<" not in value.__qualname__


def _place(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def fingerprint_of_data(data: VisionDataModule, split: str) -> str:
    """Return sha256 over what a split is: class, classes, mask values, and its files in order.

    Files are known by their names and labels, not by their contents.
    """
    samples = data.samples(split)
    segments = samples.masks is not None
    return digest(
        {
            "class": type(data).__qualname__,
            "split": split,
            "classes": list(data.classes),
            "mask_values": sorted(data.mask_values.items()) if segments else [],
            "images": b"\0".join(samples.images.tolist()),
            "labels": samples.labels,
            "masks": b"\0".join(samples.masks.tolist()) if samples.masks is not None else b"",
        }
    )


def fingerprint_of_heads(encoder: Encoder, samples: Samples, settings: object) -> str:
    """Return sha256 over all that trained heads come from: weights, file names and settings.

    Of an encoder that is not fully known, it is another one each time: nothing is resumed.
    """
    images = b"\0".join(samples.images.tolist())
    known = fingerprint(encoder) if not unknown(encoder) else uuid.uuid4().hex
    return digest({"encoder": known, "images": images, "settings": repr(settings)})


def sampled_contents(data: VisionDataModule, split: str) -> str:
    """Return sha256 over the root of a split and the bytes of up to 64 files spread over it.

    It tells apart sets that name their files alike; a single exchanged file may go unnoticed.
    """
    samples = data.samples(split)
    found: dict[str, Any] = {"root": str(data.root.resolve())}
    for index in spread(len(samples)):
        found[f"image {index}"] = samples.files.read(samples.image(index))
        if samples.masks is not None:
            found[f"mask {index}"] = samples.files.read(samples.mask(index))
    return digest(found)


def digest(parts: dict[str, Any]) -> str:
    """Return sha256 over named bytes, arrays, tensors and plain values, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        total.update(f"\n{name}: ".encode())
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, bytes):
            total.update(f"{len(value)} bytes ".encode() + value)
        else:
            total.update(json.dumps(value, sort_keys=True, default=repr).encode())
    return total.hexdigest()
