"""The encoder that sees nothing but color: what a probe reaches without any features."""

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.encoder import Encoder
from vitlab.encoders.tokens import Tokens, TokenSequence, assemble


class Pixels(Encoder):
    """Raw pixels as features; the baseline that learned features must beat.

    A patch is its own pixels; [CLS] is the whole image, shrunk to the size of one patch.

    Args:
        patch_size: pixels of a patch edge.
    """

    def __init__(self, patch_size: int = 16):
        super().__init__()
        self.patch_size = patch_size
        self.embed_dim = 3 * patch_size * patch_size

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the only state there is."""
        height, width = images.shape[2:]
        grid = (height // self.patch_size, width // self.patch_size)
        patches = F.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        small = F.interpolate(images, size=(self.patch_size, self.patch_size), mode="area").flatten(
            1
        )
        yield TokenSequence(assemble(small[:, None], patches[:, :0], patches), grid)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the pixels as tokens."""
        return next(iter(self.walk(images))).tokens()
