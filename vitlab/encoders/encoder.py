"""The contract of every encoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Tokens, TokenSequence


class Encoder(nn.Module, ABC):
    """Turns images into tokens.

    Attributes:
        embed_dim: channels of every token.
        patch_size: pixels of a patch edge; image sizes must be multiples of it.
    """

    embed_dim: int
    patch_size: int

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""

    @abstractmethod
    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the state entering each block, then the one leaving the last."""

    def read(self, state: TokenSequence) -> Tokens:
        """Return a state as the encoder's output is read: after the final norm, where it has one.

        Of the last state, it is what `forward` returns.
        """
        return state.tokens()

    def check_img_size(self, size: int, setting: str) -> None:
        """Refuse an image size that patches do not tile.

        Args:
            size: pixels of the image edge.
            setting: the option that asked for it, named in the error.

        Raises:
            ValueError: size is not a positive multiple of the patch.
        """
        if size < self.patch_size or size % self.patch_size:
            below = max(size // self.patch_size, 1) * self.patch_size
            raise ValueError(
                f"image {size}x{size} ({setting}) is not a multiple of patch {self.patch_size}; "
                f"use {setting} {below} or {below + self.patch_size}"
            )
