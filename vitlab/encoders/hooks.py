"""Record what passes inside blocks, in graph; or hand it to a function, and keep nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# the points inside a block that `visit` stops at, in their order
POINTS = ("input", "norm1", "attention", "scale1", "residual1", "norm2", "mlp", "output")


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
    with hook_blocks(encoder, name, lambda _, __, output: kept.append(output)):
        yield kept


@contextmanager
def hook_blocks(
    encoder: nn.Module, name: str, hear: Callable[[int, tuple, Tensor], object]
) -> Iterator[None]:
    """Hand over what the submodule of that name returns in every block; nothing is kept.

        with listen(encoder, "attn.weights", lambda block, _, weights: sums[block].add_(weights)):
            encoder(images)

    Args:
        encoder: a module with a list of `blocks`.
        name: path of the submodule inside a block.
        hear: is given the number of the block, what the submodule was called with, and what it
            returned, which must not be changed in place.

    Raises:
        AttributeError: a block has no submodule of that name.
    """
    blocks = encoder.get_submodule("blocks")
    taps = [block.get_submodule(name) for block in blocks.children()]

    def hook(block: int) -> Callable[[nn.Module, tuple, Tensor], None]:
        def call(_: nn.Module, given: tuple, output: Tensor) -> None:
            hear(block, given, output)  # what it returns must not replace the output

        return call

    hooks = [tap.register_forward_hook(hook(block)) for block, tap in enumerate(taps)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def hook_points(encoder: nn.Module, see: Callable[[int, str, Tensor], object]) -> Iterator[None]:
    """Hand over the whole sequence at each of `POINTS` in every block; nothing is kept.

    "scale1" is behind LayerScale, and the very tensor of "attention" where there is none; "norm2"
    and "mlp" are put together where [CLS] has weights of its own. Prompts are at no point.

    Args:
        encoder: of `Block`s, in evaluation mode.
        see: is given the number of the block, the point, and the tokens (b, n, d), which must not
            be changed in place.
    """
    hooks = []
    try:
        for index, block in enumerate(encoder.get_submodule("blocks").children()):
            hooks += _Visited(index, block, see).hooks()
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Visited:
    """One block that is looked into, and of one pass the tokens that entered it."""

    def __init__(self, index: int, block: nn.Module, see: Callable[[int, str, Tensor], object]):
        self.index, self.block, self.see = index, block, see
        self.entered: Tensor | None = None

    def hooks(self) -> list:
        """Begin to listen."""
        attention = self.block.get_submodule("attn")
        hooks = [
            self.block.register_forward_pre_hook(self.enter),
            # what attention is given, since norm1 is also that of prompts
            attention.register_forward_pre_hook(lambda _, given: self.tell("norm1", given[0])),
            attention.register_forward_hook(lambda _, __, out: self.tell("attention", out)),
            self.block.get_submodule("drop_path").register_forward_hook(self.add),
            self.block.register_forward_hook(lambda _, __, out: self.tell("output", out)),
        ]
        return [*hooks, *self.routed("norm2"), *self.routed("mlp")]

    def tell(self, point: str, x: Tensor) -> None:
        self.see(self.index, point, x)

    def enter(self, _: nn.Module, given: tuple) -> None:
        self.entered = given[0]
        self.tell("input", given[0])

    def add(self, _: nn.Module, __: tuple, scaled: Tensor) -> None:
        if self.entered is not None:  # the second branch passes here as well
            entered, self.entered = self.entered, None
            self.tell("scale1", scaled)
            self.tell("residual1", entered + scaled)

    def routed(self, name: str) -> list:
        """Listen to a layer that may have a copy for the first tokens, which is called first."""
        first: list[Tensor] = []

        def rest(_: nn.Module, __: tuple, out: Tensor) -> None:
            self.tell(name, torch.cat([first.pop(), out], dim=1) if first else out)

        hooks = [self.block.get_submodule(name).register_forward_hook(rest)]
        copied = self.block._modules.get(f"{name}_cls")
        if copied is not None:
            hooks.append(copied.register_forward_hook(lambda _, __, out: first.append(out)))
        return hooks


def recording(tap: nn.Module) -> bool:
    """Return whether someone wants what passes here, so that fused kernels must not be used."""
    return bool(tap._forward_hooks)


@dataclass(frozen=True)
class ForwardCall:
    """One forward pass of a module: the tensor that it was given, and the one it returned."""

    given: Tensor
    returned: Tensor


@contextmanager
def record_calls(module: nn.Module) -> Iterator[list[ForwardCall]]:
    """Collect what one module is given and returns, in order of the calls, in graph."""
    kept: list[ForwardCall] = []
    hook = module.register_forward_hook(
        lambda _, given, out: kept.append(ForwardCall(given[0], out))
    )
    try:
        yield kept
    finally:
        hook.remove()
