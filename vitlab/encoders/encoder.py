"""The interface of every encoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Tokens, TokenSequence
from vitlab.errors import InputError


class Encoder(nn.Module, ABC):
    """Maps images to tokens.

    Attributes:
        embed_dim: channels of every token.
        patch_size: pixels of a patch edge; image sizes must be multiples of it.
        config: the arguments of the constructor by name; needed by `save` alone.
    """

    embed_dim: int
    patch_size: int
    config: dict[str, Any]

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""

    @abstractmethod
    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the sequence entering each block, then the one leaving the last."""

    def read(self, state: TokenSequence) -> Tokens:
        """Return a sequence after the final norm, where the encoder has one.

        Of the last sequence, it is what `forward` returns.
        """
        return state.tokens()

    def spec(self) -> dict[str, Any]:
        """Return `class_path` and `init_args`, plain values from which the encoder can be built.

        Raises:
            InputError: a class of the user's own has no `config`.
        """
        kind = type(self)
        if not hasattr(self, "config"):
            raise InputError(
                f"{kind.__qualname__} has no config, from which it could be built again; set "
                "config to its arguments by name",
                field="config",
            )
        return {
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "init_args": plain_values(self.config),
        }

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
    """Return arguments with their dataclasses as dictionaries, as JSON and YAML hold them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in config.items()
    }
