"""Activation memory: bytes that a forward pass keeps until its backward pass."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Return the bytes a forward pass keeps until its backward pass, each storage once.

    Args:
        forward: the pass; what it returns is dropped.
        weights: there anyway, so not counted.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # alive until counted, so that no address is reused

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in known)
