"""Strength and width of the learned Gaussian that favors near patches (LocAtViT, arXiv:2603.04892).

Axis letters: b images, h heads, n tokens, p patches, e channels of a head.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Location, Values
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.locality import GaussianBias

_MAP = "Mean over patch queries, by block and head; the arrays are maps over the queries, mean over"
MEASURES = (
    Measure(
        "bias_alpha",
        "strength of the Gaussian bias",
        "logits",
        f"alpha of S = alpha exp(-D / variance), which is added to the logits. {_MAP} images.",
    ),
    Measure(
        "bias_variance_rows",
        "variance of the Gaussian bias, down",
        "patches squared",
        "Variance along rows with the guard epsilon that the formula adds, at the size that is "
        f"analyzed. {_MAP} images.",
    ),
    Measure(
        "bias_variance_columns",
        "variance of the Gaussian bias, across",
        "patches squared",
        f"The same along columns. {_MAP} images.",
    ),
)


def maps(
    bias: GaussianBias, q: Float[Tensor, "b h n e"], context: BatchContext
) -> dict[str, Float[Tensor, "b h p"]]:
    """Return alpha and, where they are finite, both variances of each query."""
    with torch.autocast(q.device.type, enabled=False):
        x = q[:, :, context.prefix :].to(torch.promote_types(q.dtype, torch.float32))
        alpha, variance = bias.predict(x, context.grid)
    found = {"bias_alpha": alpha[..., 0]}
    if bias.log_var is not None:  # of kind "uniform" they are infinite
        found["bias_variance_rows"] = variance[..., 0]
        found["bias_variance_columns"] = variance[..., 1]
    return found


def measure(found: Mapping[str, Float[Tensor, "b h p"]]) -> Values:
    """Return the means of each image's heads."""
    return {(name, "patches"): each.mean(-1) for name, each in found.items()}


def sums(found: Mapping[str, Float[Tensor, "b h p"]], context: BatchContext) -> Values:
    """Return the maps, summed over images."""
    return {
        (name, "patches"): each.sum(0).unflatten(-1, context.grid) for name, each in found.items()
    }


def conclude(
    measure: str,
    location: Location,
    total: Mapping[str, Float[Tensor, "h rows columns"]],
    images: int,
) -> Iterator[Row | Array]:
    """Yield a map for each head."""
    for head, each in enumerate(total["patches"] / images):
        yield location.array(measure, "patches", each, ["row", "column"], head=head)
