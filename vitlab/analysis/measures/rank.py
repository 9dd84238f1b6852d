"""Effective rank of features: RankMe.

"RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
Rank" (arXiv:2210.02885).

Axis letters: d width, e channels of what is read.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Location, Values
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.tokens import Tokens

ROWS = 25_600  # the paper's number of samples
EPSILON = 1e-7  # the paper's, for fp32
MEASURES = (
    Measure(
        "feature_rank",
        "feature rank (RankMe)",
        "",
        "exp(-sum p ln p), p = sigma / sum(sigma) + 1e-7 of the singular values of the table of "
        "features, not centered (arXiv:2210.02885); read behind the final norm. [CLS]: a row for "
        f"each image; patches: as many of each image, drawn once, as make {ROWS:,} rows, at most "
        "all. It cannot exceed the number of rows, so compare sets of one size. No interval.",
    ),
)


def sums(tokens: Tokens, context: BatchContext) -> Values:
    """Return X^T X of both tables, in double precision: singular values are roots of its own."""
    found = {}
    if context.prefix:
        found["feature_rank", "cls"] = gram_matrix(tokens.cls)
    patches = tokens.patches[:, context.order[: context.rows]]
    found["feature_rank", "patches"] = gram_matrix(patches.flatten(0, 1))
    return found


def gram_matrix(x: Float[Tensor, "rows d"]) -> Float[Tensor, "d d"]:
    """Return X^T X in double precision."""
    x = x.double()
    return x.mT @ x


def rankme(gram: Float[Tensor, "d d"], rows: int) -> float:
    """Return RankMe of the table whose X^T X this is.

    Args:
        gram: in double precision.
        rows: of the table: there are no more singular values than that.
    """
    sigma = torch.linalg.eigvalsh(gram.cpu()).clamp_min(0).sqrt()[-rows:]
    p = sigma / sigma.sum() + EPSILON
    return float(torch.exp(-(p * p.log()).sum()))


def conclude(
    location: Location, total: Mapping[str, Float[Tensor, "_ _"]], images: int, rows: int
) -> Iterator[Row | Array]:
    """Yield the rank of [CLS] and of patches, of so many patches of an image."""
    for role, count in (("cls", images), ("patches", images * rows)):
        if role in total and total[role].any():
            yield location.row("feature_rank", role, rankme(total[role], count), images)
