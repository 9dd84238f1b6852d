"""Forward hooks: record tensors inside the blocks of an encoder, or pass them to a function."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# the points of a block in their order, see `hook_points`
POINTS = ("input", "norm1", "attention", "scale1", "residual1", "norm2", "mlp", "output")
Read = Callable[[int, tuple, Tensor], object]  # number of the module, its inputs, its output


class HookPoint(nn.Identity):
    """A tensor inside a block that hooks can read.

    Attributes:
        hooks: how many are registered. With one, attention writes out its weights instead of
            calling a fused kernel; a hook that is removed by its handle alone stays counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooks = 0

    def register_forward_hook(self, *args: Any, **options: Any) -> RemovableHandle:
        """Register a hook, see `torch.nn.Module.register_forward_hook`."""
        self.hooks += 1
        return super().register_forward_hook(*args, **options)


@contextmanager
def record(encoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect the output of a submodule of every block, in order of the blocks.

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
    with hook_blocks(encoder, name, lambda _, __, output: kept.append(output)):
        yield kept


@contextmanager
def hook_blocks(encoder: nn.Module, name: str, read: Read) -> Iterator[None]:
    """Pass the output of a submodule of every block to a function; nothing is kept.

        with hook_blocks(encoder, "attn.weights", lambda block, _, w: sums[block].add_(w)):
            encoder(images)

    Args:
        encoder: a module with a list of `blocks`.
        name: path of the submodule inside a block.
        read: gets the number of the block, the inputs of the submodule, and its output, which must
            not be changed in place. What it returns is ignored.

    Raises:
        AttributeError: a block has no submodule of that name.
    """
    blocks = encoder.get_submodule("blocks").children()
    with hook_modules([block.get_submodule(name) for block in blocks], read):
        yield


@contextmanager
def hook_modules(modules: Sequence[nn.Module], read: Read) -> Iterator[None]:
    """Pass inputs and output of modules to a function, see `hook_blocks`."""

    def call(index: int, _: nn.Module, inputs: tuple, output: Tensor) -> None:
        read(index, inputs, output)

    handles = [
        module.register_forward_hook(partial(call, index)) for index, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for module, handle in zip(modules, handles, strict=True):
            handle.remove()
            if isinstance(module, HookPoint):
                module.hooks -= 1


@contextmanager
def hook_points(encoder: nn.Module, read: Callable[[int, str, Tensor], object]) -> Iterator[None]:
    """Pass the whole sequence at each of `POINTS` in every block to a function; nothing is kept.

    "scale1" is behind LayerScale, and the very tensor of "attention" where there is none; "norm2"
    and "mlp" are put together where [CLS] has weights of its own. Prompts are at no point.

    Args:
        encoder: of `Block`s, in evaluation mode.
        read: gets the number of the block, the point, and the tokens (b, n, d), which must not be
            changed in place.
    """
    handles: list[RemovableHandle] = []
    try:
        for index, block in enumerate(encoder.get_submodule("blocks").children()):
            handles += _hook_block(block, partial(read, index))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_block(block: nn.Module, read: Callable[[str, Tensor], object]) -> list[RemovableHandle]:
    attention, entered = block.get_submodule("attn"), []

    def enter(_: nn.Module, inputs: tuple) -> None:
        entered.append(inputs[0])
        read("input", inputs[0])

    def normed(_: nn.Module, inputs: tuple) -> None:
        read("norm1", inputs[0])  # what attention gets, since norm1 is also that of prompts

    def add(_: nn.Module, __: tuple, scaled: Tensor) -> None:
        if entered:  # the second branch passes here as well
            read("scale1", scaled)
            read("residual1", entered.pop() + scaled)

    def output(point: str, _: nn.Module, __: tuple, x: Tensor) -> None:
        read(point, x)

    handles = [
        block.register_forward_pre_hook(enter),
        attention.register_forward_pre_hook(normed),
        attention.register_forward_hook(partial(output, "attention")),
        block.get_submodule("drop_path").register_forward_hook(add),
        block.register_forward_hook(partial(output, "output")),
    ]
    return [*handles, *_hook_split(block, "norm2", read), *_hook_split(block, "mlp", read)]


def _hook_split(
    block: nn.Module, name: str, read: Callable[[str, Tensor], object]
) -> list[RemovableHandle]:
    """Hook a layer that may have a copy for the first tokens, which is called first."""
    first: list[Tensor] = []

    def rest(_: nn.Module, __: tuple, out: Tensor) -> None:
        read(name, torch.cat([first.pop(), out], dim=1) if first else out)

    handles = [block.get_submodule(name).register_forward_hook(rest)]
    if hasattr(block, f"{name}_cls"):
        copied = block.get_submodule(f"{name}_cls")
        handles.append(copied.register_forward_hook(lambda _, __, out: first.append(out)))
    return handles


@dataclass(frozen=True)
class ForwardCall:
    """One forward pass of a module: its first input and its output."""

    given: Tensor
    returned: Tensor


@contextmanager
def record_calls(module: nn.Module) -> Iterator[list[ForwardCall]]:
    """Collect the input and output of each call of one module, in order, in graph."""
    kept: list[ForwardCall] = []
    with hook_modules([module], lambda _, x, out: kept.append(ForwardCall(x[0], out))):
        yield kept
