"""What the pictures are made of: features and attention of images, one block at a time.

Axis letters: b images, h heads, n tokens, k keys, p patches, s patches of all images, d width.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from vitlab.data import normalize
from vitlab.encoders import Encoder, Tokens
from vitlab.encoders.hooks import hook_blocks
from vitlab.encoders.tokens import Grid
from vitlab.probes import InferenceConfig
from vitlab.probes.finiteness import check_finite
from vitlab.probes.layer_selection import LayerSelection, check_layers, depth_of

CLS = -1  # in place of a patch: the token [CLS]


@dataclass(frozen=True)
class Seen:
    """What an encoder makes of images of one size, after one block.

    Attributes:
        tokens: after the encoder's final norm.
        attention: of one query in each head, over the patches; without prompts, [CLS] and
            registers, so that it sums to less than 1. None where it was not asked for.
    """

    tokens: Tokens
    attention: Float[Tensor, "b h p"] | None


@torch.no_grad()
def look(
    encoder: Encoder,
    images: UInt8[Tensor, "b 3 height width"],
    loading: InferenceConfig,
    blocks: Sequence[int] = (-1,),
    queries: Sequence[int] | None = None,
) -> list[Seen]:
    """Return what an encoder makes of images after each of these blocks, by one pass.

    Matrices of attention are there one block at a time; one row in each head is kept.

    Args:
        encoder: in evaluation mode, where `loading` says; with prompts and registers or without.
        images: RGB; edges are multiples of the patch.
        loading: where the encoder is, and its precision.
        blocks: 0 is the first, -1 the last.
        queries: whose attention is kept: of each image, the index of a patch or `CLS`.

    Raises:
        ValueError: a block that the encoder does not have, or features that are not finite.
    """
    check_layers(encoder, [LayerSelection(tuple(blocks))])
    depth = max(depth_of(encoder), 1)
    wanted = [block % depth for block in blocks]
    patches = (images.shape[2] // encoder.patch_size) * (images.shape[3] // encoder.patch_size)
    attention: dict[int, Tensor] = {}
    seen: dict[int, Tokens] = {}

    def hear(block: int, _: tuple, weights: Tensor) -> None:
        if block in wanted:
            attention[block] = rows(weights, queries or (), patches)

    tap = nullcontext() if queries is None else hook_blocks(encoder, "attn.weights", hear)
    with loading.precision(), tap:
        for index, state in enumerate(encoder.walk(normalize(images.to(loading.device)))):
            # the first state enters the first block, unless there are no blocks
            block = index - (depth_of(encoder) > 0)
            if block in wanted:
                seen[block] = encoder.read(state)
                check_finite(seen[block].patches)
    return [Seen(seen[block], attention.get(block)) for block in wanted]


def rows(
    weights: Float[Tensor, "b h n k"], queries: Sequence[int], patches: int
) -> Float[Tensor, "b h p"]:
    """Return the attention of one query of each image over the patches, in each head.

    Prompts come before [CLS] among the keys, and are no queries: patches are last of both.
    """
    first = weights.shape[2] - patches
    index = [0 if query == CLS else first + query for query in queries]
    return weights[range(len(weights)), :, index, -patches:].float().cpu()


@dataclass(frozen=True)
class Table:
    """The patches of several images, each with a grid of its own, as rows of one table.

    Attributes:
        x: features, image after image.
        grids: rows and columns of each image.
    """

    x: Float[Tensor, "s d"]
    grids: Sequence[Grid]

    @classmethod
    def of(cls, tokens: Sequence[Tokens]) -> "Table":
        """Gather the patches of several passes."""
        x = torch.cat([each.patches.float().cpu().flatten(0, 1) for each in tokens])
        return cls(x, [each.grid for each in tokens for _ in range(len(each.patches))])

    def split(self, values: Shaped[Tensor, "s ..."]) -> list[Tensor]:
        """Return values of the patches, (s,) or (s, c), as maps (rows, columns) or (c, ...)."""
        sizes = [rows * columns for rows, columns in self.grids]
        parts = zip(values.split(sizes), self.grids, strict=True)
        return [part.unflatten(0, grid).movedim((0, 1), (-2, -1)) for part, grid in parts]
