"""Measures an encoder on batches of images, while they pass through it: nothing is kept.

Axis letters: b images, h heads, n tokens, k keys, p patches, d width.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlab.analysis.measures import (
    attention,
    bias,
    channels,
    cosines,
    foreground,
    locality,
    norms,
    prompts,
    rank,
)
from vitlab.analysis.measures.accumulator import Accumulator
from vitlab.analysis.measures.context import BatchContext, Values, labels_of
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.hooks import hook_blocks, hook_points
from vitlab.encoders.tokens import Tokens, TokenSequence, assemble, prefix_length
from vitlab.encoders.vit import Block

MEASURES: tuple[Measure, ...] = (
    *(*cosines.MEASURES, *channels.MEASURES, *norms.MEASURES, *locality.MEASURES),
    *(*attention.MEASURES, *prompts.MEASURES, *bias.MEASURES),
    *(*foreground.MEASURES, *rank.MEASURES),
)
WITH_MASKS = (
    *("foreground", "background", "diffusion_index"),
    *(each.name for each in foreground.MEASURES),
)
WEIGHTS_AT_ONCE = {"cpu": 2**21, "cuda": 2**27}  # attention weights of one pass of one block


class Engine:
    """Takes batches of images, gives rows and arrays.

    Args:
        encoder: in evaluation mode, on its device.
        images: how many are going to come; decides how many patches of each enter `feature_rank`.
        precision: makes the context of a forward pass, such as autocast.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: int,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.encoder, self.images, self.precision = encoder, images, precision
        self.blocks = blocks_of(encoder)
        self.tally = Accumulator()
        self.scene: BatchContext
        self.rows_of_image = 0
        self._last: tuple[Tensor | None, Values, Values] = (None, {}, {})

    def fitting(self, size: int, device: torch.device) -> int:
        """Return how many images of this size may pass at once without much memory."""
        tokens = (size // self.encoder.patch_size) ** 2 + 1
        most = WEIGHTS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        return max(1, most // (self.blocks[0].attn.num_heads * tokens**2))

    @torch.inference_mode()
    def see(
        self,
        images: Float[Tensor, "b 3 height width"],
        objects: UInt8[Tensor, "b height width"] | None = None,
    ) -> None:
        """Measure some images.

        Args:
            images: normalized.
            objects: 1 on an object, 0 elsewhere, 255 where it is not known.

        Raises:
            ValueError: features are not finite.
        """
        self._look(images, objects)
        with ExitStack() as stack:
            stack.enter_context(hook_points(self.encoder, self._point))
            stack.enter_context(hook_blocks(self.encoder, "attn.weights", self._weights))
            if all(block.attn.gaug is not None for block in self.blocks):
                stack.enter_context(hook_blocks(self.encoder, "attn.gaug", self._bias))
            stack.enter_context(self.precision())
            self.encoder(images)
        self._last = (None, {}, {})
        self.tally.flush(len(images))

    def findings(self, model: str) -> Iterator[Row | Array]:
        """Yield all that was found, under the label of the model."""
        yield from self.tally.rows(model)
        conclude: dict[str, Callable[..., Iterator[Row | Array]]] = {
            "channel_magnitude": channels.conclude,
            "token_norm": norms.conclude,
            "feature_rank": partial(rank.conclude, rows=self.rows_of_image),
            "prompt_mass": prompts.conclude,
            **{each.name: partial(bias.conclude, each.name) for each in bias.MEASURES},
        }
        for place, measure, total in self.tally.arrays(model):
            yield from conclude[measure](place, total, self.tally.images)

    def _look(self, images: Tensor, objects: Tensor | None) -> None:
        """Make the scene; the number of tokens before the patches is seen on the first block."""
        patch = self.encoder.patch_size
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        count = grid[0] * grid[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        self.rows_of_image = min(count, -(-rank.ROWS // max(self.images, 1)))
        none = torch.zeros(len(images), count, dtype=torch.bool, device=images.device)
        labels = None if objects is None else labels_of(objects, patch)
        self.scene = BatchContext(
            *(grid, patch, -1),
            none if labels is None else labels.foreground,
            none if labels is None else labels.background,
            order.to(images.device),
            self.rows_of_image,
        )

    def _point(self, block: int, point: str, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens at a point of a block."""
        if self.scene.prefix < 0:
            self.scene = replace(self.scene, prefix=prefix_length(x.shape[1], self.scene.grid))
        seen, cosine, magnitude = self._last
        if seen is not x:  # what leaves a block enters the next, and is measured once
            wide = precise(x)
            cosine, magnitude = (
                cosines.measure(wide, self.scene),
                channels.sums(wide, self.scene),
            )
            self._last = (x, cosine, magnitude)
        self.tally.add((block, point), cosine)
        self.tally.add_sums((block, point), magnitude)
        if point == "output":
            self._output(block, x)

    def _output(self, block: int, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens that leave a block, as they are and as an encoder's output is read."""
        wide = precise(x)
        if not wide.isfinite().all():
            raise ValueError(
                f"the features of block {block} are not finite, and nothing can be measured on "
                "them; give weights of before they diverged, or --precision fp32"
            )
        self.tally.add((block, "output"), norms.measure(wide, self.scene))
        self.tally.add((block, "output"), locality.measure(wide, self.scene))
        self.tally.add_sums((block, "output"), norms.sums(wide, self.scene))
        read = self.encoder.read(TokenSequence(x, self.scene.grid))
        tokens = Tokens(
            precise(read.cls), precise(read.registers), precise(read.patches), read.grid
        )
        sequence = tokens.patches
        if self.scene.prefix:
            sequence = assemble(tokens.cls[:, None], tokens.registers, tokens.patches)
        found = foreground.measure(tokens, self.scene) | cosines.measure(sequence, self.scene)
        sums = rank.sums(tokens, self.scene)
        for where in ((block, "read"), (None, "final")):
            if where[0] is not None or block == len(self.blocks) - 1:
                self.tally.add(where, found)
                self.tally.add_sums(where, sums)

    def _weights(self, block: int, _: tuple, weights: Float[Tensor, "b h n k"]) -> None:
        """Measure attention weights."""
        wide = precise(weights)
        self.tally.add((block, ""), attention.measure(wide, self.scene))
        self.tally.add((block, ""), prompts.measure(wide, self.scene))
        self.tally.add_sums((block, ""), prompts.sums(wide, self.scene))

    def _bias(self, block: int, given: tuple, _: Tensor) -> None:
        """Measure the bias of locality from the queries it was given."""
        predictor = self.blocks[block].attn.gaug
        assert predictor is not None
        found = bias.maps(predictor, given[0], self.scene)
        self.tally.add((block, ""), bias.measure(found))
        self.tally.add_sums((block, ""), bias.sums(found, self.scene))


def blocks_of(encoder: Encoder) -> list[Block]:
    """Return the blocks of an encoder.

    Raises:
        ValueError: it has none that can be looked into.
    """
    listed = getattr(encoder, "blocks", ())
    blocks = [each for each in listed if isinstance(each, Block)]
    if not blocks or len(blocks) != len(listed):
        raise ValueError(
            f"{type(encoder).__name__} has no transformer blocks to look into; give a ViT"
        )
    return blocks


def precise(x: Tensor) -> Tensor:
    """Return numbers in single precision, or double where they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
