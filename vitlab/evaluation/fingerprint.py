"""What stands for an encoder and for a dataset in a result and in the name of a cached table."""

import hashlib
import json
from typing import Any

import numpy as np
import torch

from vitlab.data import Data
from vitlab.data.samples import Samples, spread
from vitlab.encoders import Encoder


def fingerprint(encoder: Encoder) -> str:
    """Return sha256 over an encoder's class, its arguments and its tensors, sorted by name.

    An encoder that keeps no `config` is known by its plain attributes, such as its patch.
    """
    parts: dict[str, Any] = dict(encoder.state_dict())
    for name, module in encoder.named_modules():  # one may wrap another
        if isinstance(module, Encoder):
            parts[f"{name} class"] = type(module).__qualname__
            parts[f"{name} config"] = getattr(module, "config", None) or {
                key: value for key, value in vars(module).items() if _plain(key, value)
            }
    return digest(parts)


def fingerprint_of_data(data: Data, split: str) -> str:
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
    """Return sha256 over all that trained heads come from: weights, file names and settings."""
    images = b"\0".join(samples.images.tolist())
    return digest({"encoder": fingerprint(encoder), "images": images, "settings": repr(settings)})


def sampled_contents(data: Data, split: str) -> str:
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


def _plain(name: str, value: object) -> bool:
    """Whether this attribute of a module is an argument of ours rather than torch's state."""
    return name[0] != "_" and name != "training" and isinstance(value, int | float | str | tuple)


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
