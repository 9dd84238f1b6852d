"""Forward hooks: record tensors inside the blocks of an encoder, or pass them to a function."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# those of a block in their order, see `Block.forward` and `hook_points`
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
def hook_modules(modules: Sequence[nn.Module], read: Read) -> Iterator[None]:
    """Pass number, inputs and output of modules to a function; nothing is kept or replaced."""

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


def has_attention(encoder: nn.Module) -> bool:
    """Return whether all blocks of an encoder have the hook point of attention weights."""
    blocks = list(getattr(encoder, "blocks", ()))
    return bool(blocks) and all(
        isinstance(getattr(getattr(block, "attn", None), "weights", None), HookPoint)
        for block in blocks
    )


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
def hook_points(encoder: nn.Module, read: Callable[[int, str, Tensor], object]) -> Iterator[None]:
    """Pass number of the block, name and tokens (b, n, d) at each of its `POINTS` to a function.

    "scale1" is behind LayerScale, and the very tensor of "attention" where there is none; "mlp" is
    before it. Prompts are at no point.
    """
    blocks, count = encoder.get_submodule("blocks").children(), len(POINTS)
    points = [block.get_submodule(f"points.{point}") for block in blocks for point in POINTS]
    with hook_modules(points, lambda i, _, x: read(i // count, POINTS[i % count], x)):
        yield


@contextmanager
def record(encoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect the output of a submodule of every block, in order of the blocks and in graph.

        with record(encoder, "attn.weights") as weights:
            encoder(images)

    "attn.weights" are attention probabilities; for other names and errors see `hook_blocks`.
    """
    kept: list[Tensor] = []
    with hook_blocks(encoder, name, lambda _, __, output: kept.append(output)):
        yield kept


class ForwardCall(NamedTuple):
    """One forward pass of a module: its first input and its output."""

    given: Tensor
    returned: Tensor


@contextmanager
def record_calls(module: nn.Module) -> Iterator[list[ForwardCall]]:
    """Collect the input and output of each call of one module, in order and in graph."""
    kept: list[ForwardCall] = []
    with hook_modules([module], lambda _, x, out: kept.append(ForwardCall(x[0], out))):
        yield kept
