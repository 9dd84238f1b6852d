"""Measurement of an encoder on batches of images during their forward pass; no feature is kept.

Axis letters: b images, h heads, n tokens, k keys, p patches, d embed_dim.
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
from vitlab.analysis.measures.context import BatchContext, Values, label_patches
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.hooks import hook_blocks, hook_points
from vitlab.encoders.tokens import Tokens, TokenSequence, assemble, prefix_length
from vitlab.encoders.vit import Block
from vitlab.errors import InputError
from vitlab.probes.layer_selection import depth_of

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


class MeasureEngine:
    """Measures batches of images; `update` with each batch, then `compute`.

    Of an encoder without `Block`s, the states of its walk are measured, as outputs of blocks.

    Args:
        encoder: in evaluation mode, on its device.
        images: number of all images; decides how many patches of each enter `feature_rank`.
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
        self.depth = max(depth_of(encoder), 1)
        self.accumulator = Accumulator()
        self.context: BatchContext
        self._last: tuple[Tensor | None, Values, Values] = (None, {}, {})

    def max_batch_size(self, size: int, device: torch.device) -> int:
        """Return how many images of this size may pass at once without much memory."""
        tokens = (size // self.encoder.patch_size) ** 2 + 1
        most = WEIGHTS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        heads = self.blocks[0].attn.num_heads if self.blocks else 1
        return max(1, most // (heads * tokens**2))

    @torch.inference_mode()
    def update(
        self,
        images: Float[Tensor, "b 3 height width"],
        objects: UInt8[Tensor, "b height width"] | None = None,
    ) -> None:
        """Measure some images.

        Args:
            images: normalized.
            objects: 1 on an object, 0 elsewhere, 255 unknown.

        Raises:
            InputError: features are not finite.
        """
        patch_size = self.encoder.patch_size
        grid = (images.shape[2] // patch_size, images.shape[3] // patch_size)
        self.context = BatchContext.of(
            batch=len(images),
            grid=grid,
            patch_size=patch_size,
            prefix=-1,  # unknown before the first block
            labels=None if objects is None else label_patches(objects, patch_size),
            rows=min(grid[0] * grid[1], -(-rank.ROWS // max(self.images, 1))),
            device=images.device,
        )
        with ExitStack() as stack:
            if self.blocks:
                hook = partial(hook_blocks, self.encoder)
                stack.enter_context(hook_points(self.encoder, self._measure_point))
                stack.enter_context(hook("attn.weights", self._measure_attention))
                if all(block.attn.gaug is not None for block in self.blocks):
                    stack.enter_context(hook("attn.gaug", self._measure_bias))
            stack.enter_context(self.precision())
            if self.blocks:
                self.encoder(images)
            else:
                states = list(self.encoder.walk(images))
                for block, state in enumerate(states[-self.depth :]):
                    self._measure_point(block, "output", state.x)
        self._last = (None, {}, {})
        self.accumulator.flush(len(images))

    def compute(self, model: str) -> Iterator[Row | Array]:
        """Yield all results under the label of the model."""
        yield from self.accumulator.rows(model)
        conclude: dict[str, Callable[..., Iterator[Row | Array]]] = {
            "channel_magnitude": channels.conclude,
            "token_norm": norms.conclude,
            "feature_rank": partial(rank.conclude, rows=self.context.rows),
            "prompt_mass": prompts.conclude,
            **{each.name: partial(bias.conclude, each.name) for each in bias.MEASURES},
        }
        for location, measure, total in self.accumulator.arrays(model):
            yield from conclude[measure](location, total, self.accumulator.images)

    def _measure_point(self, block: int, point: str, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens at a point of a block."""
        if self.context.prefix < 0:
            prefix = prefix_length(x.shape[1], self.context.grid)
            self.context = replace(self.context, prefix=prefix)
        seen, cosine, magnitude = self._last
        if seen is not x:  # what leaves a block enters the next, and is measured once
            wide = at_least_fp32(x)
            cosine, magnitude = (
                cosines.measure(wide, self.context),
                channels.sums(wide, self.context),
            )
            self._last = (x, cosine, magnitude)
        self.accumulator.add((block, point), cosine)
        self.accumulator.add_sums((block, point), magnitude)
        if point == "output":
            self._measure_output(block, x)

    def _measure_output(self, block: int, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens that leave a block, as they are and read like the encoder's output."""
        wide = at_least_fp32(x)
        if not wide.isfinite().all():
            raise InputError(
                f"the features of block {block} are not finite, and nothing can be measured on "
                "them; give weights of before they diverged, or --precision fp32",
                field="--weights",
            )
        self.accumulator.add((block, "output"), norms.measure(wide, self.context))
        self.accumulator.add((block, "output"), locality.measure(wide, self.context))
        self.accumulator.add_sums((block, "output"), norms.sums(wide, self.context))
        read = self.encoder.read(TokenSequence(x, self.context.grid))
        cls, registers = at_least_fp32(read.cls), at_least_fp32(read.registers)
        tokens = Tokens(cls, registers, at_least_fp32(read.patches), read.grid)
        sequence = tokens.patches
        if self.context.prefix:
            sequence = assemble(tokens.cls[:, None], tokens.registers, tokens.patches)
        values = foreground.measure(tokens, self.context) | cosines.measure(sequence, self.context)
        sums = rank.sums(tokens, self.context)
        for point in ((block, "read"), (None, "final")):
            if point[0] is not None or block == self.depth - 1:
                self.accumulator.add(point, values)
                self.accumulator.add_sums(point, sums)

    def _measure_attention(self, block: int, _: tuple, weights: Float[Tensor, "b h n k"]) -> None:
        wide = at_least_fp32(weights)
        self.accumulator.add((block, ""), attention.measure(wide, self.context))
        self.accumulator.add((block, ""), prompts.measure(wide, self.context))
        self.accumulator.add_sums((block, ""), prompts.sums(wide, self.context))

    def _measure_bias(self, block: int, given: tuple, _: Tensor) -> None:
        """Measure the bias of locality from its queries."""
        predictor = self.blocks[block].attn.gaug
        assert predictor is not None
        maps = bias.maps(predictor, given[0], self.context)
        self.accumulator.add((block, ""), bias.measure(maps))
        self.accumulator.add_sums((block, ""), bias.sums(maps, self.context))


def blocks_of(encoder: Encoder) -> list[Block]:
    """Return the blocks of an encoder; none where some are of another class."""
    listed = list(getattr(encoder, "blocks", ()))
    return listed if all(isinstance(each, Block) for each in listed) else []


def at_least_fp32(x: Tensor) -> Tensor:
    """Return numbers in single precision, or double where they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
