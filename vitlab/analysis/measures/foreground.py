"""Alignment with the object: by similarity to [CLS], and by the first principal component.

The likeness of [CLS] and patches against masks: "Vision Transformers Need Better Token Interaction"
(arXiv:2605.23868). Hit rate, thresholds and signs are defined here.

Axis letters: b images, p patches, d width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Values
from vitlab.analysis.measures.tokens import average_ranks
from vitlab.encoders.tokens import Grid, Tokens

STEPS = 40  # of Lanczos


def foreground(tokens: Tokens, context: BatchContext) -> Values:
    """Return how well each image's object is found; nothing where no image has both."""
    fore, back = context.foreground, context.background
    both = fore.any(1) & back.any(1)
    if not both.any():
        return {}
    found = {
        ("foreground_share", ""): fore.sum(1) / (fore | back).sum(1),
        ("foreground_pc1_iou", ""): iou(
            objects_by_component(tokens.patches, tokens.grid), fore, back
        ),
    }
    if context.prefix:
        likeness = F.cosine_similarity(tokens.cls[:, None], tokens.patches, dim=-1)
        found["foreground_auroc", ""] = auroc(likeness, fore, back)
        found["foreground_hit", ""] = hit(likeness, fore, fore | back)
        found["foreground_hit_box", ""] = hit(likeness, box(fore, tokens.grid), fore | back)
    return {name: each.masked_fill(~both, torch.nan) for name, each in found.items()}


def auroc(
    scores: Float[Tensor, "b p"], positive: Bool[Tensor, "b p"], negative: Bool[Tensor, "b p"]
) -> Float[Tensor, " b"]:
    """Return the area under the ROC: (sum of positive ranks - m (m + 1) / 2) / (m k).

    Args:
        scores: of all; those that are neither are not looked at.
        positive: the m that should be high.
        negative: the k that should be low.
    """
    counts = positive | negative
    ranks = average_ranks(scores.masked_fill(~counts, -torch.inf)) - (~counts).sum(1, keepdim=True)
    m, k = positive.sum(1), negative.sum(1)
    return ((ranks * positive).sum(1) - m * (m + 1) / 2) / (m * k)


def hit(
    scores: Float[Tensor, "b p"], target: Bool[Tensor, "b p"], counts: Bool[Tensor, "b p"]
) -> Float[Tensor, " b"]:
    """Return 1 where the largest score of those that count is on the target."""
    best = scores.masked_fill(~counts, -torch.inf).argmax(1, keepdim=True)
    return target.gather(1, best)[:, 0].to(scores.dtype)


def box(patches: Bool[Tensor, "b p"], grid: Grid) -> Bool[Tensor, "b p"]:
    """Return the smallest rectangle around some patches."""
    inside = patches.unflatten(1, grid)
    sides = []
    for axis in (1, 2):
        line = inside.any(3 - axis)
        after = line.cumsum(1) > 0
        before = line.flip(1).cumsum(1).flip(1) > 0
        sides.append((after & before).unsqueeze(3 - axis))
    return (sides[0] & sides[1]).flatten(1)


def iou(
    predicted: Bool[Tensor, "b p"], fore: Bool[Tensor, "b p"], back: Bool[Tensor, "b p"]
) -> Float[Tensor, " b"]:
    """Return intersection over union with the foreground, where patches are labeled."""
    either = fore | (predicted & back)
    return (predicted & fore).sum(1) / either.sum(1).clamp_min(1)


def objects_by_component(x: Float[Tensor, "b p d"], grid: Grid) -> Bool[Tensor, "b p"]:
    """Return where the first principal component is above 0, and the border not."""
    scores = first_component(x).unflatten(1, grid)
    border = torch.ones_like(scores[0])
    border[1:-1, 1:-1] = 0
    sign = torch.where((scores * border).sum((1, 2)) > 0, -1.0, 1.0).to(scores.dtype)
    return (sign[:, None, None] * scores > 0).flatten(1)


def first_component(x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p"]:
    """Return the projections on the first principal component, of length 1 and any sign.

    By Lanczos' method with full orthogonalization on the products of the patches, which is exact to
    rounding where the first two components differ by a percent: an eigendecomposition of each image
    takes ten times as long.
    """
    x = x - x.mean(1, keepdim=True)
    x = x / x.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    b, p, _ = x.shape
    start = torch.randn(p, generator=torch.Generator().manual_seed(0)).to(x)
    v = F.normalize((start - start.mean()).expand(b, p), dim=1)
    basis, images = [v], []
    for _ in range(min(STEPS, max(p - 1, 1))):
        w = (x @ (v[:, None] @ x).mT)[..., 0]
        images.append(w)
        known = torch.stack(basis, 1)
        for _ in range(2):  # once leaves rounding
            w = w - ((known @ w[..., None]).mT @ known)[:, 0]
        v = F.normalize(w, dim=1)
        basis.append(v)
    known, seen = torch.stack(basis[: len(images)], 1), torch.stack(images, 1)
    small = known @ seen.mT
    top = torch.linalg.eigh((small + small.mT) / 2).eigenvectors[..., -1]
    return (top[:, None] @ known)[:, 0]
