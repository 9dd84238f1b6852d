"""The encoder that sees nothing but color: what a probe reaches without any features."""

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.encoder import Encoder
from vitlab.encoders.tokens import State, Tokens, assemble


class Pixels(Encoder):
    """Raw pixels as features; the baseline that learned features must beat.

    A patch is its own pixels; [CLS] is the whole image, shrunk to the size of one patch.

    Args:
        patch: pixels of a patch edge.
    """

    def __init__(self, patch: int = 16):
        super().__init__()
        self.patch = patch
        self.width = 3 * patch * patch

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[State]:
        """Yield the only state there is."""
        height, width = images.shape[2:]
        grid = (height // self.patch, width // self.patch)
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        small = F.interpolate(images, size=(self.patch, self.patch), mode="area").flatten(1)
        yield State(assemble(small[:, None], patches[:, :0], patches), grid)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the pixels as tokens."""
        return next(iter(self.walk(images))).tokens()
