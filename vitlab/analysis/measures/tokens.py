"""Measures of tokens: cosines, channels, norms, locality, rank.

Axis letters: b images, r roles, n tokens, p patches, d width, k numbers.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import ROLES, BatchContext, Values
from vitlab.analysis.results import Array, Row, rounded
from vitlab.encoders.tokens import Tokens, TokenSequence

TOP = 10  # channels
DEVIATIONS = 6  # median absolute deviations above the median; our threshold of high norm
DECADES, PER_DECADE = (-4, 8), 20  # bins of norms
SAMPLE = 96  # patches whose 4,560 pairs make the locality
DIGITS = 1e-6  # cosines that differ by rounding alone are equal
ROWS = 25_600  # RankMe's number of samples
EPSILON = 1e-7  # RankMe's, for fp32


def mean_cosines(
    x: Float[Tensor, "b n d"], roles: Float[Tensor, "b r n"]
) -> Float[Tensor, "b r r"]:
    """Return the mean cosine of tokens of two roles; of one role, over distinct pairs.

    No pair is formed: sum_ij cos(x_i, x_j) = (sum_i x_i / |x_i|) (sum_j x_j / |x_j|).

    Args:
        x: tokens.
        roles: 1 for the tokens of a role. Two roles that are compared must not overlap.

    Returns:
        NaN where there is no pair.
    """
    norms = torch.linalg.vector_norm(x, dim=-1)
    some = norms > 0
    sums = (roles.to(x.dtype) * (some / norms.masked_fill(~some, 1))[:, None]) @ x
    itself = torch.diag_embed((roles * some[:, None]).sum(-1))
    count = roles.sum(-1)
    pairs = count[:, :, None] * count[:, None] - torch.diag_embed(count)
    means = ((sums @ sums.mT - itself) / pairs.clamp_min(1)).clamp(-1, 1)
    return means.masked_fill(pairs == 0, torch.nan)


def cosines(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the cosines of [CLS] and patches, of patches, of object and background, of registers.

    "Vision Transformers Need Better Token Interaction" (arXiv:2605.23868) argues with the first,
    "Revisiting [CLS] and Patch Token Interaction" (arXiv:2602.08626) with both around each norm.
    """
    means = mean_cosines(x, context.roles)

    def between(one: str, other: str) -> Float[Tensor, " b"]:
        return means[:, ROLES.index(one), ROLES.index(other)]

    patches = ("all", "foreground", "background")
    return {
        **{("cls_patch_cosine", role): between("cls", role) for role in patches},
        **{("patch_patch_cosine", role): between(role, role) for role in patches},
        ("diffusion_index", ""): between("foreground", "background"),
        ("cls_registers_cosine", ""): between("cls", "registers"),
        ("registers_patch_cosine", ""): between("registers", "all"),
    }


def channels(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the magnitudes of channels in [CLS] and in patches, summed over images.

    arXiv:2602.08626 explains by such channels that [CLS] and patches become unlike across the norm.
    """
    if not context.prefix:
        return {}
    tokens = TokenSequence(x, context.grid).tokens()
    patches = torch.linalg.vector_norm(tokens.patches, ord=1, dim=1) / tokens.patches.shape[1]
    return {
        ("channel_magnitude", "cls"): tokens.cls.abs().sum(0),
        ("channel_magnitude", "patches"): patches.sum(0),
    }


def conclude_channels(
    total: Mapping[str, Float[Tensor, " d"]], images: int
) -> Iterator[Row | Array]:
    """Yield the magnitudes of both roles and how they differ."""
    cls, patches = (total[role] / images for role in ("cls", "patches"))
    for role, mean in (("cls", cls), ("patches", patches)):
        yield Array(measure="channel_magnitude", role=role, values=rounded(mean), axes=["channel"])
    # a stable order, so that equal channels are told by their number
    top = [each.sort(descending=True, stable=True).indices[:TOP] for each in (cls, patches)]
    overlap = float(torch.isin(*top).double().mean())
    yield Row(measure="channel_overlap", mean=overlap, images=images)
    both = (cls > 0) & (patches > 0)
    if both.any():
        ratio = (cls / patches).where(both, torch.ones(()).double()).log()
        yield Array(measure="channel_log_ratio", values=rounded(ratio), axes=["channel"])
        size = float(ratio[both].abs().mean())
        yield Row(measure="channel_log_ratio", mean=size, images=images)


def norms(x: Float[Tensor, "b n d"], context: BatchContext) -> tuple[Values, Values]:
    """Return the norms of tokens and the share of high-norm patches of each image.

    High-norm patches: "Vision Transformers Need Registers" (arXiv:2309.16588).

    Returns:
        Numbers of each image; how many patches of all have a norm in each bin, the first and last
        of which take what is beyond.
    """
    tokens = TokenSequence(x, context.grid).tokens()
    lengths = tokens.patches.norm(dim=-1)
    middle = median(lengths)
    deviation = median((lengths - middle[:, None]).abs())
    high = lengths > (middle + DEVIATIONS * deviation)[:, None]
    found = {
        ("token_norm", "patches"): lengths.mean(1),
        ("token_norm", "registers"): tokens.registers.norm(dim=-1).mean(1),
        ("norm_outliers", ""): high.to(lengths.dtype).mean(1),
        ("norm_peak", ""): (lengths.amax(1) / middle).masked_fill(middle == 0, torch.nan),
    }
    if context.prefix:
        found["token_norm", "cls"] = tokens.cls.norm(dim=-1)
    bins = (DECADES[1] - DECADES[0]) * PER_DECADE
    place = ((lengths.log10() - DECADES[0]) * PER_DECADE).floor().clamp(0, bins - 1)
    counts = place.long().flatten().bincount(minlength=bins)
    return found, {("token_norm", "patches"): counts}


def median(x: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
    """Return the median of each row; the mean of the middle two, where they are two."""
    ordered = x.sort(dim=1).values
    last = x.shape[1] - 1
    return (ordered[:, last // 2] + ordered[:, (last + 1) // 2]) / 2


def conclude_norms(total: Mapping[str, Float[Tensor, " bins"]], _: int) -> Iterator[Row | Array]:
    """Yield the histogram, without the empty bins at its ends."""
    counts = total["patches"]
    used = counts.nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    edges = [10 ** (DECADES[0] + edge / PER_DECADE) for edge in range(first, last + 2)]
    edges = [float(f"{edge:.6g}") for edge in edges]
    values = rounded(counts[first : last + 1])
    yield Array(measure="token_norm", role="patches", values=values, axes=["bin"], edges=edges)


def locality(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return Spearman's correlation of similarity and distance of patches of each image."""
    chosen = context.order[:SAMPLE]
    unit = F.normalize(TokenSequence(x, context.grid).tokens().patches[:, chosen], dim=-1)
    one, other = torch.triu_indices(len(chosen), len(chosen), 1, device=x.device)
    likeness = ((unit @ unit.mT)[:, one, other] / DIGITS).round()
    distance = context.distances[chosen][:, chosen][one, other][None].to(x.dtype)
    found = correlation(average_ranks(likeness), average_ranks(distance))
    return {("locality", ""): found}


def average_ranks(x: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Return the rank of each number in its row, from 1; equal ones share the mean of theirs."""
    ordered = x.contiguous().sort(dim=-1).values
    below = torch.searchsorted(ordered, x.contiguous(), right=False)
    upto = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (below + upto + 1).to(x.dtype) / 2


def correlation(x: Float[Tensor, "#b k"], y: Float[Tensor, "#b k"]) -> Float[Tensor, " b"]:
    """Return Pearson's correlation of two rows; NaN where one of them is constant."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    scale = x.norm(dim=-1) * y.norm(dim=-1)
    return ((x * y).sum(-1) / scale).masked_fill(scale == 0, torch.nan)


def grams(tokens: Tokens, context: BatchContext) -> Values:
    """Return X^T X of the tables of [CLS] and of patches, for RankMe (arXiv:2210.02885)."""
    found = {}
    if context.prefix:
        found["feature_rank", "cls"] = gram_matrix(tokens.cls)
    patches = tokens.patches[:, context.order[: context.rows]]
    found["feature_rank", "patches"] = gram_matrix(patches.flatten(0, 1))
    return found


def gram_matrix(x: Float[Tensor, "rows d"]) -> Float[Tensor, "d d"]:
    """Return X^T X in double precision: singular values are roots of its eigenvalues."""
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


def conclude_rank(
    total: Mapping[str, Float[Tensor, "_ _"]], images: int, rows: int
) -> Iterator[Row | Array]:
    """Yield the rank of [CLS] and of patches, of so many patches of an image."""
    for role, count in (("cls", images), ("patches", images * rows)):
        if role in total and total[role].any():
            rank = rankme(total[role], count)
            yield Row(measure="feature_rank", role=role, mean=rank, images=images)
