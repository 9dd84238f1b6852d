"""The counts behind a result, on disk: safetensors, for nothing in such a file can run.

Axis letters: n images, c classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vitlab.probes.metrics import AccuracyCounts, IoUCounts, PerImageCounts

NAMES = "names"  # of the tensor that holds them, the bytes of a JSON list


@dataclass(frozen=True)
class Counts:
    """What was counted on each image.

    Attributes:
        evidence: counts of n images.
        names: of these images, n.
    """

    evidence: PerImageCounts
    names: tuple[str, ...]


def pack(evidence: PerImageCounts, names: Sequence[str]) -> bytes:
    """Return counts as the content of a file."""
    assert len(names) == len(evidence), f"{len(names)} names for {len(evidence)} images"
    letters = json.dumps(list(names)).encode("ascii")  # escapes what is no Unicode
    tensors = {
        name: counts.clone(memory_format=torch.contiguous_format)
        for name, counts in evidence.tensors().items()
    }
    return safetensors.torch.save(
        {**tensors, NAMES: torch.frombuffer(bytearray(letters), dtype=torch.uint8)}
    )


def unpack(content: bytes) -> Counts:
    """Return the counts in the content of a file.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"it is damaged: {error}") from error
    letters = tensors.pop(NAMES, None)
    if letters is None or letters.dtype != torch.uint8 or letters.ndim != 1:
        raise ValueError("it has no names of images")
    names = json.loads(letters.numpy().tobytes())
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no texts")
    evidence = _evidence(tensors)
    if len(evidence) != len(names) or not names:
        raise ValueError(f"it has {len(names)} names for {len(evidence)} images")
    return Counts(evidence, tuple(names))


def _evidence(tensors: dict[str, Tensor]) -> PerImageCounts:
    if set(tensors) == {"correct"}:
        correct = tensors["correct"]
        if correct.dtype == torch.bool and correct.ndim == 1:
            return AccuracyCounts(correct)
    elif set(tensors) == {"both", "truth", "predicted"}:
        counts = list(tensors.values())
        alike = len({tuple(each.shape) for each in counts}) == 1 and counts[0].ndim == 2
        whole = not any(each.is_floating_point() or each.is_complex() for each in counts)
        if alike and whole:
            least = torch.minimum(tensors["truth"], tensors["predicted"])
            if bool((tensors["both"] >= 0).all() and (tensors["both"] <= least).all()):
                return IoUCounts(tensors["both"], tensors["truth"], tensors["predicted"])
    shapes = {name: (str(each.dtype), tuple(each.shape)) for name, each in tensors.items()}
    raise ValueError(f"its tensors are no counts of images: {shapes}")
