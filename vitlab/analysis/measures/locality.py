"""Correlation of similarity and distance of patches.

Axis letters: b images, n tokens, d width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Values
from vitlab.analysis.measures.ranks import average_ranks, correlation
from vitlab.analysis.results import Measure
from vitlab.encoders.tokens import TokenSequence

SAMPLE = 96  # patches; 4,560 pairs
_DIGITS = 1e-6  # cosines that differ by rounding alone are equal
MEASURES = (
    Measure(
        "locality",
        "rank correlation of likeness and distance",
        "",
        "Spearman's correlation of cos(patch, patch) and distance on the grid, where a block ends, "
        f"over all pairs of {SAMPLE} patches drawn once (of all patches, if they are fewer). "
        "Below 0: near patches are more alike than far ones.",
    ),
)


def measure(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the correlation of each image."""
    chosen = context.order[:SAMPLE]
    unit = F.normalize(TokenSequence(x, context.grid).tokens().patches[:, chosen], dim=-1)
    one, other = torch.triu_indices(len(chosen), len(chosen), 1, device=x.device)
    likeness = ((unit @ unit.mT)[:, one, other] / _DIGITS).round()
    distance = context.distances[chosen][:, chosen][one, other][None].to(x.dtype)
    found = correlation(average_ranks(likeness), average_ranks(distance))
    return {("locality", ""): found}
