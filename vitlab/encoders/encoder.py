"""The interface of every encoder."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Tokens, TokenSequence, assemble
from vitlab.errors import InputError


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
        if not isinstance(getattr(encoder, name, None), int):
            raise InputError(f"{kind} has no {name}; set it to a number in __init__", field=field)
    training, device = encoder.training, next(iter(encoder.parameters()), torch.empty(0)).device
    with torch.no_grad():
        tokens = encoder.eval()(torch.zeros(1, 3, size, size, device=device))
    encoder.train(training)
    if not isinstance(tokens, Tokens):
        given = type(tokens).__name__
        raise InputError(f"{kind}.forward returns {given}; return Tokens", field=field)
    d, edge = encoder.embed_dim, size // encoder.patch_size
    wanted = {"cls": (1, d), "patches": (1, edge * edge, d), "grid": (edge, edge)}
    wanted["registers"] = (1, tokens.registers.shape[1], d)
    for name, shape in wanted.items():
        value = getattr(tokens, name)
        found = tuple(value.shape if isinstance(value, Tensor) else value)
        if found != shape:
            raise InputError(
                f"{kind}.forward gives {name} {found} for an image of {size} pixels, with "
                f"embed_dim {d} and patch_size {encoder.patch_size}; it must be {shape}",
                field=field,
            )
