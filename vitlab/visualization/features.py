"""Features and attention of images, after blocks of an encoder.

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
from vitlab.encoders.hooks import has_attention, hook_blocks
from vitlab.encoders.tokens import Grid
from vitlab.probes import InferenceConfig
from vitlab.probes.features import check_finite
from vitlab.probes.layer_selection import LayerSelection, extract_layers

CLS = -1  # query index of [CLS], in place of a patch


@dataclass(frozen=True)
class BlockFeatures:
    """Output of one block for images of one size.

    Attributes:
        tokens: after the encoder's final norm.
        attention: of one query in each head over the patches; the weights of prompts, [CLS] and
            registers are left out, so the sum is below 1. None without queries, and where
            blocks show no attention weights.
    """

    tokens: Tokens
    attention: Float[Tensor, "b h p"] | None


@torch.no_grad()
def extract_block_features(
    encoder: Encoder,
    images: UInt8[Tensor, "b 3 height width"],
    loading: InferenceConfig,
    blocks: Sequence[int] = (-1,),
    queries: Sequence[int] | None = None,
) -> list[BlockFeatures]:
    """Return the features of images after each of these blocks, by one pass.

    Attention matrices exist one block at a time; one row in each head is kept.

    Args:
        encoder: in evaluation mode, on the device of `loading`.
        images: RGB; edges are multiples of the patch.
        loading: device and precision.
        blocks: 0 is the first, -1 the last.
        queries: whose attention is kept: of each image, the index of a patch or `CLS`.

    Raises:
        InputError: a block that the encoder does not have, or features that are not finite.
    """
    wanted = [block % max(encoder.count_blocks(), 1) for block in blocks]
    patches = (images.shape[2] // encoder.patch_size) * (images.shape[3] // encoder.patch_size)
    attention: dict[int, Tensor] = {}

    def keep(block: int, _: tuple, weights: Float[Tensor, "b h n k"]) -> None:
        if block in wanted:
            # prompts come before [CLS] among the keys, and are no queries: patches are last of both
            first = weights.shape[2] - patches
            index = [0 if query == CLS else first + query for query in queries or ()]
            attention[block] = weights[range(len(weights)), :, index, -patches:].float().cpu()

    hook = queries is not None and has_attention(encoder)
    with (
        loading.precision(),
        hook_blocks(encoder, "attn.weights", keep) if hook else nullcontext(),
    ):
        selections = [LayerSelection((block,)) for block in blocks]
        found = extract_layers(encoder, normalize(images.to(loading.device)), selections)
        check_finite(*(tokens.patches for tokens in found))
    pairs = zip(found, wanted, strict=True)
    return [BlockFeatures(tokens, attention.get(block)) for tokens, block in pairs]


@dataclass(frozen=True)
class PatchMatrix:
    """Patch features of several images, whose grids may differ, as rows of one matrix."""

    x: Float[Tensor, "s d"]
    grids: Sequence[Grid]

    @classmethod
    def from_tokens(cls, tokens: Sequence[Tokens]) -> "PatchMatrix":
        """Return the patches of several batches."""
        x = torch.cat([each.patches.float().cpu().flatten(0, 1) for each in tokens])
        return cls(x, [each.grid for each in tokens for _ in range(len(each.patches))])

    def split(self, values: Shaped[Tensor, "s ..."]) -> list[Tensor]:
        """Return values of the patches, (s,) or (s, c), as maps (rows, columns) or (c, ...)."""
        sizes = [rows * columns for rows, columns in self.grids]
        parts = zip(values.split(sizes), self.grids, strict=True)
        return [part.unflatten(0, grid).movedim((0, 1), (-2, -1)) for part, grid in parts]
