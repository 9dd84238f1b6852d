"""Norms of tokens, and the share of high-norm patches.

High-norm patches: "Vision Transformers Need Registers" (arXiv:2309.16588). The threshold is ours.

Axis letters: b images, n tokens, p patches, d width.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Location, Values
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.tokens import TokenSequence

DEVIATIONS = 6
DECADES, PER_DECADE = (-4, 8), 20
MEASURES = (
    Measure(
        "token_norm",
        "norm of tokens",
        "",
        "L2 norm where a block ends, before any final norm: of patches (mean over an image), of "
        "[CLS], of registers. The array counts the patches of all images in bins of the norm, "
        f"{PER_DECADE} to a factor of ten.",
    ),
    Measure(
        "norm_outliers",
        "share of high-norm patches",
        "share",
        f"Share of an image's patches whose norm is above median + {DEVIATIONS} MAD of its "
        "patches, the MAD (median absolute deviation) without a factor.",
    ),
    Measure(
        "norm_peak",
        "largest norm / median norm",
        "",
        "Largest norm of an image's patches divided by the median norm.",
    ),
)


def measure(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the norms of each image, and its outliers."""
    tokens = TokenSequence(x, context.grid).tokens()
    norms = tokens.patches.norm(dim=-1)
    middle = median(norms)
    deviation = median((norms - middle[:, None]).abs())
    high = norms > (middle + DEVIATIONS * deviation)[:, None]
    found = {
        ("token_norm", "patches"): norms.mean(1),
        ("token_norm", "registers"): tokens.registers.norm(dim=-1).mean(1),
        ("norm_outliers", ""): high.to(norms.dtype).mean(1),
        ("norm_peak", ""): (norms.amax(1) / middle).masked_fill(middle == 0, torch.nan),
    }
    if context.prefix:
        found["token_norm", "cls"] = tokens.cls.norm(dim=-1)
    return found


def median(x: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
    """Return the median of each row; the mean of the middle two, where they are two."""
    ordered = x.sort(dim=1).values
    last = x.shape[1] - 1
    return (ordered[:, last // 2] + ordered[:, (last + 1) // 2]) / 2


def sums(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return how many patches have a norm in each bin; the first and last take what is beyond."""
    norms = TokenSequence(x, context.grid).tokens().patches.norm(dim=-1)
    bins = (DECADES[1] - DECADES[0]) * PER_DECADE
    location = ((norms.log10() - DECADES[0]) * PER_DECADE).floor().clamp(0, bins - 1)
    return {("token_norm", "patches"): location.long().flatten().bincount(minlength=bins)}


def conclude(
    location: Location, total: Mapping[str, Float[Tensor, " bins"]], images: int
) -> Iterator[Row | Array]:
    """Yield the histogram, without the empty bins at its ends."""
    counts = total["patches"]
    used = counts.nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    edges = [10 ** (DECADES[0] + edge / PER_DECADE) for edge in range(first, last + 2)]
    edges = [float(f"{edge:.6g}") for edge in edges]
    yield location.array("token_norm", "patches", counts[first : last + 1], ["bin"], edges=edges)
