"""The contract of every encoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import State, Tokens


class Encoder(nn.Module, ABC):
    """Turns images into tokens.

    Attributes:
        width: channels of every token.
        patch: pixels of a patch edge; image sizes must be multiples of it.
    """

    width: int
    patch: int

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""

    @abstractmethod
    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[State]:
        """Yield the state entering each block, then the one leaving the last."""

    def read(self, state: State) -> Tokens:
        """Return a state as the encoder's output is read: after the final norm, where it has one.

        Of the last state, it is what `forward` returns.
        """
        return state.tokens()

    def check(self, size: int, setting: str) -> None:
        """Refuse an image size that patches do not tile.

        Args:
            size: pixels of the image edge.
            setting: the option that asked for it, named in the error.

        Raises:
            ValueError: size is not a positive multiple of the patch.
        """
        if size < self.patch or size % self.patch:
            below = max(size // self.patch, 1) * self.patch
            raise ValueError(
                f"image {size}x{size} ({setting}) is not a multiple of patch {self.patch}; "
                f"use {setting} {below} or {below + self.patch}"
            )
