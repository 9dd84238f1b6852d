"""The interface of every encoder."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Tokens, TokenSequence, assemble
from vitlab.errors import InputError, trying

# of encoders of the user's own, by walking once
_counts: WeakKeyDictionary["Encoder", int] = WeakKeyDictionary()


class Encoder(nn.Module, ABC):
    """Maps images to tokens.

    Attributes:
        embed_dim: channels of every token.
        patch_size: pixels of a patch edge; image sizes must be multiples of it.
        config: the arguments of the constructor by name, with which checkpoints describe it.
    """

    embed_dim: int
    patch_size: int
    config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Encoder":
        """Keep the arguments as `config`; a copy, which is made without any, gets its own."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        given = signature.bind_partial(self, *args, **kwargs)
        given.apply_defaults()
        config = dict(list(given.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                config |= config.pop(name)
        self.__dict__["config"] = config
        return self

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the sequence entering each block, then the one leaving the last.

        An encoder without blocks has one sequence, that of its features.
        """
        tokens = self(images)
        x = assemble(tokens.cls[:, None], tokens.registers, tokens.patches)
        yield TokenSequence(x, tokens.grid)

    def count_blocks(self) -> int:
        """Return the number of blocks that `walk` goes through; 0 for an encoder without."""
        if type(self).walk is Encoder.walk:
            return 0
        if self not in _counts:
            _counts[self] = len(try_encoder(self, self.walk)) - 1
        return _counts[self]

    def read(self, state: TokenSequence) -> Tokens:
        """Return a sequence after the final norm, where the encoder has one.

        Of the last sequence, it is what `forward` returns.
        """
        return state.tokens()

    def spec(self) -> dict[str, Any]:
        """Return `class_path` and `init_args`, plain values from which the encoder can be built.

        Raises:
            InputError: a class of the user's own has an argument that is no plain value.
        """
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        arguments = plain_values(self.config)
        try:
            json.dumps(arguments)
        except TypeError as error:
            raise InputError(
                f"{name} cannot be described in a checkpoint: {error}; its arguments must be plain "
                "values, dataclasses of them, or encoders",
                field="model.objective.encoder",
            ) from error
        return {"class_path": name, "init_args": arguments}

    def check_img_size(self, size: int, field: str) -> None:
        """Refuse an image edge in pixels that patches do not tile.

        `field` is the option that sets it, named in the error.

        Raises:
            InputError: size is not a positive multiple of the patch size.
        """
        if size < self.patch_size or size % self.patch_size:
            below = max(size // self.patch_size, 1) * self.patch_size
            raise InputError(
                f"image {size}x{size} ({field}) is not a multiple of patch {self.patch_size}; "
                f"use {field} {below} or {below + self.patch_size}",
                field=field,
            )


def plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON holds them: dataclasses as dictionaries, encoders by spec."""

    def plain(value: Any) -> Any:
        if isinstance(value, Encoder):
            return value.spec()
        if isinstance(value, Path):
            return str(value)
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    return {name: plain(value) for name, value in config.items()}


def try_encoder(encoder: Encoder, use: Callable[[Tensor], Any], size: int = 0) -> Any:
    """Return what a method of an encoder makes of one black image, in evaluation mode.

    Args:
        encoder: the encoder.
        use: its method; what it yields is returned as a list.
        size: pixels of the image edge; by default one that the encoder should take.

    Raises:
        InputError: the method fails.
    """
    own = encoder.config.get("img_size")
    size = size or (
        own if isinstance(own, int) else max(224 // encoder.patch_size, 1) * encoder.patch_size
    )
    first = next(iter(encoder.parameters()), torch.empty(0))
    images = torch.zeros(1, 3, size, size, device=first.device, dtype=first.dtype)
    modes = [(module, module.training) for module in encoder.modules()]
    what = f".{use.__name__}, tried on an image of {size} pixels,"
    try:
        with torch.no_grad(), trying(encoder, what, "model.objective.encoder"):
            encoder.eval()
            found = use(images)
            return list(found) if isinstance(found, Iterator) else found
    finally:
        for module, training in modes:
            module.training = training


def check_encoder(encoder: Encoder, size: int) -> None:
    """Try an encoder of the user's own on one image, before a run begins.

    Args:
        encoder: any.
        size: pixels of the image edge.

    Raises:
        InputError: what is missing or of the wrong shape.
    """
    kind, field = type(encoder).__qualname__, "model.objective.encoder"
    for name in ("embed_dim", "patch_size"):
        value = getattr(encoder, name, None)
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"{kind}.{name} is {value}; set it in __init__ to a positive number", field=field
            )
    found = {"forward": try_encoder(encoder, encoder.forward, size)}
    if type(encoder).walk is not Encoder.walk:
        states = try_encoder(encoder, encoder.walk, size)
        wrong = [state for state in states if not isinstance(state, TokenSequence)]
        if wrong or not states:
            given = type(wrong[0]).__name__ if wrong else "nothing"
            raise InputError(
                f"{kind}.walk yields {given}; yield TokenSequence(x, grid), the sequence entering "
                "each block and the one leaving the last",
                field=field,
            )
        found["read"] = try_encoder(encoder, lambda _: encoder.read(states[-1]), size)
    d, edge = encoder.embed_dim, size // encoder.patch_size
    for method, tokens in found.items():
        if not isinstance(tokens, Tokens):
            given = type(tokens).__name__
            raise InputError(
                f"{kind}.{method} returns {given}; return vitlab.encoders.Tokens(cls, registers, "
                "patches, grid)",
                field=field,
            )
        wanted = {"cls": (1, d), "patches": (1, edge * edge, d), "grid": (edge, edge)}
        wanted["registers"] = (1, tokens.registers.shape[1], d)
        for name, shape in wanted.items():
            value = getattr(tokens, name)
            actual = tuple(value.shape if isinstance(value, Tensor) else value)
            if actual != shape:
                raise InputError(
                    f"{kind}.{method} gives {name} {actual} for an image of {size} pixels, with "
                    f"embed_dim {d} and patch_size {encoder.patch_size}; it must be {shape}",
                    field=field,
                )
    if "read" in found and not torch.allclose(
        found["read"].patches, found["forward"].patches, 1e-3, 1e-4
    ):
        raise InputError(
            f"{kind}.read gives other patches of the last state of walk than forward returns; the "
            "two must agree: evaluations read the former",
            field=field,
        )
