"""Measurement of an encoder on batches of images during their forward pass; no feature is kept.

Axis letters: b images, h heads, n tokens, k keys, d embed_dim.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from scipy import stats
from torch import Tensor

from vitlab.analysis.measures import attention, tokens
from vitlab.analysis.measures.context import BatchContext, Values, label_patches, no_objects
from vitlab.analysis.measures.foreground import foreground
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.hooks import hook_blocks, hook_points
from vitlab.encoders.tokens import Tokens, TokenSequence, assemble, prefix_length
from vitlab.encoders.vit import Block
from vitlab.errors import InputError
from vitlab.precision import at_least_fp32

Point = tuple[int | None, str]  # block and point
Key = tuple[int | None, str, str, str]  # block, point, measure, role
with (Path(__file__).parent / "definitions.csv").open(newline="") as _file:
    _DEFINED = list(csv.DictReader(_file))
WHY_ABSENT = {each["name"]: each.pop("absent") for each in _DEFINED}  # "" where always measured
RANGES = {each["name"]: tuple(map(float, each.pop("range").split())) for each in _DEFINED}
MEASURES = tuple(Measure(**each) for each in _DEFINED)
WITH_MASKS = [name for name, why in WHY_ABSENT.items() if why == "no masks"]
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
        self.depth = max(encoder.count_blocks(), 1)
        self.accumulator = Accumulator()
        self.context: BatchContext
        self._last: tuple[Tensor | None, Values, Values] = (None, {}, {})

    def max_batch_size(self, size: int, device: torch.device) -> int:
        """Return how many images of this size may pass at once without much memory."""
        count = (size // self.encoder.patch_size) ** 2 + 1
        most = WEIGHTS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        heads = self.blocks[0].attn.num_heads if self.blocks else 1
        return max(1, most // (heads * count**2))

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
        if objects is None:
            labels = no_objects(len(images), grid, images.device)
        else:
            labels = label_patches(objects, patch_size)
        rows = min(grid[0] * grid[1], -(-tokens.ROWS // max(self.images, 1)))
        # the prefix is unknown before the first block
        self.context = BatchContext(grid, patch_size, -1, *labels, rows)
        with ExitStack() as stack:
            stack.enter_context(self.precision())
            if self.blocks:
                hook = partial(hook_blocks, self.encoder)
                stack.enter_context(hook_points(self.encoder, self._measure_point))
                stack.enter_context(hook("attn.weights", self._measure_attention))
                if all(block.attn.gaug is not None for block in self.blocks):
                    stack.enter_context(hook("attn.gaug", self._measure_bias))
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
            "channel_magnitude": tokens.conclude_channels,
            "token_norm": tokens.conclude_norms,
            "feature_rank": partial(tokens.conclude_rank, rows=self.context.rows),
            "prompt_mass": attention.conclude_prompts,
        }
        totals: dict[tuple[int | None, str, str], dict[str, Tensor]] = defaultdict(dict)
        for (block, point, measure, role), total in self.accumulator.totals.items():
            totals[block, point, measure][role] = total.cpu()
        for (block, point, measure), by_role in totals.items():
            make = conclude.get(measure) or partial(attention.conclude_bias, measure)
            for each in make(by_role, self.accumulator.images):
                yield each._replace(model=model, block=block, point=point)

    def _measure_point(self, block: int, point: str, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens at a point of a block."""
        if self.context.prefix < 0:
            prefix = prefix_length(x.shape[1], self.context.grid)
            self.context = replace(self.context, prefix=prefix)
        wide = at_least_fp32(x)
        if self._last[0] is not x:  # what leaves a block enters the next, and is measured once
            self._last = x, tokens.cosines(wide, self.context), tokens.channels(wide, self.context)
        self.accumulator.add((block, point), *self._last[1:])
        if point == "output":
            self._measure_output(block, wide)
            self._measure_read(block, self.encoder.read(TokenSequence(x, self.context.grid)))

    def _measure_output(self, block: int, x: Float[Tensor, "b n d"]) -> None:
        """Measure the tokens that leave a block, as they are."""
        if not x.isfinite().all():
            raise InputError(
                f"the features of block {block} are not finite, and nothing can be measured on "
                "them; give weights of before they diverged, or --precision fp32",
                field="--weights",
            )
        self.accumulator.add((block, "output"), *tokens.norms(x, self.context))
        self.accumulator.add((block, "output"), tokens.locality(x, self.context))

    def _measure_read(self, block: int, read: Tokens) -> None:
        """Measure the tokens that leave a block, read like the encoder's output."""
        cls, registers, patches = map(at_least_fp32, (read.cls, read.registers, read.patches))
        wide = Tokens(cls, registers, patches, read.grid)
        sequence = assemble(cls[:, None], registers, patches) if self.context.prefix else patches
        values = foreground(wide, self.context) | tokens.cosines(sequence, self.context)
        grams = tokens.grams(wide, self.context)
        self.accumulator.add((block, "read"), values, grams)
        if block == self.depth - 1:
            self.accumulator.add((None, "final"), values, grams)

    def _measure_attention(self, block: int, _: tuple, weights: Float[Tensor, "b h n k"]) -> None:
        wide = at_least_fp32(weights)
        self.accumulator.add((block, ""), attention.attention(wide, self.context))
        self.accumulator.add((block, ""), *attention.prompts(wide, self.context))

    def _measure_bias(self, block: int, given: tuple, _: Tensor) -> None:
        """Measure the bias of locality from its queries."""
        predictor = self.blocks[block].attn.gaug
        assert predictor is not None
        found = attention.gaussian_bias(predictor, given[0], self.context)
        self.accumulator.add((block, ""), *found)


class Accumulator:
    """Sums over images, in double precision, from which means with intervals are computed.

    Attributes:
        pending: numbers of each image of one batch, (b,) or (b, h); NaN is undefined.
        sums: count, sum and sum of squares of each number over all batches, (3,) or (3, 1 + h).
        totals: arrays that are summed over all images.
        images: how many there were.
    """

    def __init__(self) -> None:
        self.pending: dict[Key, Tensor] = {}
        self.sums: dict[Key, Tensor] = {}
        self.totals: dict[Key, Tensor] = {}
        self.images = 0

    def add(self, point: Point, values: Values, totals: Values | None = None) -> None:
        """Add numbers of each image of a batch, and arrays that are summed over its images."""
        self.pending |= {(*point, *name): each for name, each in values.items()}
        for name, each in (totals or {}).items():
            key = (*point, *name)
            self.totals[key] = self.totals.get(key, 0) + each.double()

    def flush(self, images: int) -> None:
        """Sum the numbers of one batch; together, for there are a thousand small tensors."""
        by_shape: dict[torch.Size, list[Key]] = defaultdict(list)
        for key, each in sorted(self.pending.items(), key=lambda item: item[1].ndim):
            by_shape[each.shape].append(key)
        for keys in by_shape.values():
            values = torch.stack([self.pending[key].double() for key in keys])
            if values.ndim == 3:  # of heads, their mean comes first
                values = torch.cat([values.nanmean(2, keepdim=True), values], dim=2)
            known = ~values.isnan()
            values = values.nan_to_num(0.0)
            sums = [known.double().sum(1), values.sum(1), values.square().sum(1)]
            for key, each in zip(keys, torch.stack(sums, 1).cpu(), strict=True):
                self.sums[key] = self.sums.get(key, 0) + each
        self.pending.clear()
        self.images += images

    def rows(self, model: str) -> Iterator[Row]:
        """Yield a row for each number that was defined for some image."""
        for (block, point, measure, role), sums in self.sums.items():
            for index, (count, total, squares) in enumerate(sums.reshape(3, -1).T.tolist()):
                if count:
                    interval = mean_interval(count, total, squares, *RANGES[measure])
                    place = model, measure, block, point, index - 1 if index else None, role
                    yield Row(*place, *interval, int(count))


def mean_interval(
    count: float, total: float, squares: float, least: float = -math.inf, most: float = math.inf
) -> tuple[float, float | None, float | None]:
    """Return a mean with its 95 % interval; None for the bounds of one image.

    Of numbers within two limits, such as shares and cosines, the interval is Wilson's (JASA 22,
    1927), which stays within them, on the scale from 0 to 1: p with (mean - p)^2 = q p (1 - p). As
    such numbers vary less between images than zeros and ones, q is t^2 times the variance of the
    mean over mean (1 - mean) (the effective sample size of Korn and Graubard, Survey Methodology
    24, 1998); t is Student's. Where all images are at one limit q is t^2 / n. Of other numbers it
    is Student's t, cut where the numbers end.

    Args:
        count: number of images.
        total: sum over images.
        squares: sum of squares.
        least: the smallest that an image can have.
        most: the largest.
    """
    mean = total / count
    if count < 2:
        return mean, None, None
    variance = max(squares - total * mean, 0.0) / (count - 1) / count  # of the mean
    t = float(stats.t.ppf(0.975, count - 1))
    if math.isinf(most - least):
        half = t * math.sqrt(variance)
        return mean, max(mean - half, least), min(mean + half, most)
    p = min(max((mean - least) / (most - least), 0.0), 1.0)
    scatter = p * (1 - p)
    q = t**2 * variance / (most - least) ** 2 / scatter if scatter else t**2 / count
    middle, half = p + q / 2, math.sqrt(q * scatter + q**2 / 4)
    low, high = max((middle - half) / (1 + q), 0.0), min((middle + half) / (1 + q), 1.0)
    return mean, least + low * (most - least), least + high * (most - least)


def blocks_of(encoder: Encoder) -> list[Block]:
    """Return the blocks of an encoder; none where some are of another class."""
    listed = list(getattr(encoder, "blocks", ()))
    return listed if all(isinstance(each, Block) for each in listed) else []
