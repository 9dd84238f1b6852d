"""An encoder trained with other pixel statistics, behind the input that all others take."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.data import MEAN, STD
from vitlab.encoders import Encoder, State, Tokens


class Shifted(Encoder):
    """Takes images normalized by ImageNet's statistics, and gives its encoder (rgb - 0.5) / 0.5.

    So are LocAtViT and timm's AugReg weights trained.

    Args:
        encoder: what it wraps.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.inner = encoder
        self.width, self.patch = encoder.width, encoder.patch
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
        self.register_buffer("factor", std / 0.5, persistent=False)
        self.register_buffer("offset", (mean - 0.5) / 0.5, persistent=False)
        self.factor: Tensor
        self.offset: Tensor

    @property
    def blocks(self) -> nn.Module:
        """The blocks of the encoder."""
        return self.inner.get_submodule("blocks")

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[State]:
        """Walk through the encoder."""
        return self.inner.walk(images * self.factor + self.offset)

    def read(self, state: State) -> Tokens:
        """Return a state as the encoder reads it."""
        return self.inner.read(state)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the encoder's features."""
        return self.inner(images * self.factor + self.offset)
