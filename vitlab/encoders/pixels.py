"""Raw pixels as features."""

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
        """Yield the only sequence there is."""
        edge = self.patch_size
        grid = (images.shape[2] // edge, images.shape[3] // edge)
        patches = F.unfold(images, edge, stride=edge).transpose(1, 2)
        small = F.interpolate(images, size=(edge, edge), mode="area").flatten(1)
        yield TokenSequence(assemble(small[:, None], patches[:, :0], patches), grid)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the pixels as tokens."""
        return next(iter(self.walk(images))).tokens()
