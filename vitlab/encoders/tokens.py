"""Token sequences and their parts: the only file that slices a sequence.

Axis letters: b images, n tokens, r registers, p patches, d channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]  # rows, columns of patches


@dataclass(frozen=True)
class Tokens:
    """The features of a batch of images.

    Attributes:
        cls: the image-level feature.
        registers: scratch tokens of the encoder, no features.
        patches: one feature for each patch, row by row.
        grid: rows and columns of patches; p = rows * columns.
    """

    cls: Float[Tensor, "b d"]
    registers: Float[Tensor, "b r d"]
    patches: Float[Tensor, "b p d"]
    grid: Grid

    @property
    def map(self) -> Float[Tensor, "b d rows columns"]:
        """The patches at their places in the image."""
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True)
class TokenSequence:
    """The sequence between blocks: [CLS], then registers, then patches."""

    x: Float[Tensor, "b n d"]
    grid: Grid

    def tokens(self) -> Tokens:
        """Split the sequence into its parts."""
        prefix = prefix_length(self.x.shape[1], self.grid)
        return Tokens(self.x[:, 0], self.x[:, 1:prefix], self.x[:, prefix:], self.grid)


def prefix_length(n: int, grid: Grid) -> int:
    """Return how many of n tokens come before the patches: [CLS] and the registers."""
    return n - grid[0] * grid[1]


def assemble(
    cls: Float[Tensor, "#b 1 d"],
    registers: Float[Tensor, "#b r d"],
    patches: Float[Tensor, "b p d"],
) -> Float[Tensor, "b n d"]:
    """Put [CLS] and registers, of each image or the same for all, before the patches."""
    b = patches.shape[0]  # not len(), which torch.export takes for a constant
    return torch.cat([cls.expand(b, -1, -1), registers.expand(b, -1, -1), patches], dim=1)


def split_at(
    x: Float[Tensor, "b n d"], k: int
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b m d"]]:
    """Return the first k tokens and the rest."""
    return x[:, :k], x[:, k:]
