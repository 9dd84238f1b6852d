"""SHA-256 fingerprints of encoders and datasets."""

import hashlib
import json
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from vitlab import distributed
from vitlab.data import VisionDataModule
from vitlab.data.samples import spread
from vitlab.encoders import Encoder
from vitlab.encoders.encoder import plain_values

# significant digits of features in a key: rounding of another device does not change them
DIGITS = 3


def fingerprint(encoder: Encoder) -> str:
    """Return sha256 over an encoder's parameters, buffers, config, and plain attributes of modules.

    Buffers that are in no checkpoint count too; plain are numbers, texts and tuples.
    """
    parts: dict[str, Any] = {
        **dict(encoder.named_parameters(remove_duplicate=False)),
        **dict(encoder.named_buffers(remove_duplicate=False)),
        **encoder.state_dict(),
        # without arguments that are no plain values, such as functions: see `features_key`
        "config": json.dumps(plain_values(encoder.config), default=lambda _: ""),
    }
    for name, module in encoder.named_modules():
        parts[f"{name} class"] = f"{type(module).__module__}.{type(module).__qualname__}"
        for key, value in vars(module).items():
            if isinstance(value, int | float | str | tuple) and key != "training":
                parts[f"{name} {key}"] = repr(value)
    return digest(parts)


@torch.no_grad()
def features_key(encoder: Encoder, size: int) -> str:
    """Return statistics of the features of one fixed square image, to a few digits.

    What `fingerprint` cannot hash changes them: functions, hooks, attributes of other types. All
    ranks return the value of the first.
    """
    tensors = chain(encoder.parameters(), encoder.buffers())
    device = next((each.device for each in tensors), torch.device("cpu"))
    wave = torch.arange(3 * size * size, device=device).view(1, 3, size, size)
    tokens = encoder(2 * torch.sin(0.37 * wave))
    found = [
        " ".join(
            f"{float(each.abs().mean()):.{DIGITS - 1}e}"  # of sums of one sign, which do not cancel
            for x in (tokens.cls.float(), tokens.patches.float())
            if x.numel()
            for each in (x, x.diff(dim=-1))
        )
    ]
    if distributed.world_size() > 1:
        dist.broadcast_object_list(found)
    return found[0]


def fingerprint_of_data(data: VisionDataModule, split: str) -> str:
    """Return sha256 over what a split is: class, classes, mask values, and its files in order.

    Files are known by their names and labels, not by their contents.
    """
    samples = data.samples(split)
    parts: dict[str, Any] = {
        "class": type(data).__qualname__,
        "split": split,
        "classes": list(data.classes),
        "images": b"\0".join(samples.images.tolist()),
        "labels": samples.labels,
        "mask_values": [],
        "masks": b"",
    }
    if samples.masks is not None:
        parts["mask_values"] = sorted(data.mask_values.items())
        parts["masks"] = b"\0".join(samples.masks.tolist())
    return digest(parts)


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


def key_of(encoder: Encoder, size: int, data: VisionDataModule, *splits: str) -> dict[str, str]:
    """Return all that features of splits depend on, by name; size is that of `features_key`."""
    return {
        "weights": fingerprint(encoder),
        "features": features_key(encoder, size),
        "data": "-".join(fingerprint_of_data(data, split) for split in splits),
        "files": "-".join(sampled_contents(data, split) for split in splits),
    }


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
