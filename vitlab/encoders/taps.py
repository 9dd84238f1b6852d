"""Record what passes inside blocks, in graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@contextmanager
def record(encoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect the output of the submodule of that name in every block, in order of the blocks.

        with record(encoder, "attn.weights") as weights:
            encoder(images)

    Args:
        encoder: a module with a list of `blocks`.
        name: path of the submodule inside a block; "attn.weights" for attention probabilities.

    Yields:
        A list that fills during forward passes; tensors are part of the graph.

    Raises:
        AttributeError: a block has no submodule of that name.
    """
    kept: list[Tensor] = []
    blocks = encoder.get_submodule("blocks")
    taps = [block.get_submodule(name) for block in blocks.children()]
    hooks = [tap.register_forward_hook(lambda _, __, output: kept.append(output)) for tap in taps]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def recording(tap: nn.Module) -> bool:
    """Return whether someone wants what passes here, so that fused kernels must not be used."""
    return bool(tap._forward_hooks)


@dataclass(frozen=True)
class Call:
    """One forward pass of a module: the tensor that it was given, and the one it returned."""

    given: Tensor
    returned: Tensor


@contextmanager
def observe(module: nn.Module) -> Iterator[list[Call]]:
    """Collect what one module is given and returns, in order of the calls, in graph."""
    kept: list[Call] = []
    hook = module.register_forward_hook(lambda _, given, out: kept.append(Call(given[0], out)))
    try:
        yield kept
    finally:
        hook.remove()
