"""Patch features as colors: the first three principal components are red, green and blue.

As DINOv2's (arXiv:2304.07193) figures; the rules for signs, for several models and for which side
of the first component is foreground are ours.

Axis letters: s patches of all images together, d width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlab.visualization.features import Table

Basis = Literal["aligned", "joint", "each"]
FLAT = 1e-5  # deviation, in parts of the first component's, under which there is only rounding


def principal_scores(
    x: Float[Tensor, "s d"], kept: Bool[Tensor, " s"] | None = None
) -> Float[Tensor, "s 3"]:
    """Return the first three principal components of all patches, each with deviation 1.

    One basis for all images, so that equal scores mean equal features. Signs are fixed by the
    largest loading, so that pictures of successive epochs can be compared. A component that the
    features do not have is 0.

    Args:
        x: features.
        kept: the patches that it is about; the scores of others are 0.
    """
    kept = torch.ones(len(x), dtype=torch.bool) if kept is None else kept
    scores = torch.zeros(len(x), 3, dtype=torch.float64)
    inside = x[kept].double().cpu()
    if not len(inside):
        return scores
    inside = inside - inside.mean(0)
    _, basis = torch.linalg.eigh(inside.T @ inside)
    basis = basis[:, -3:].flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    found = inside @ (basis * largest.sign())
    deviation = found.square().mean(0).sqrt()
    there = deviation > FLAT * deviation[0].clamp_min(1e-12)
    found = torch.where(there, found / deviation.where(there, 1), 0)
    scores[kept] = F.pad(found, (0, 3 - found.shape[1]))  # of fewer than three channels
    return scores


def aligned(scores: Float[Tensor, "s 3"], reference: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3"]:
    """Return scores turned, or mirrored, to be as near as can be to those of another model.

    The orthogonal Procrustes problem, of the same places in the same images.
    """
    u, _, v = torch.linalg.svd(scores.T @ reference)
    return scores @ (u @ v)


def colors(
    scores: Float[Tensor, "s 3"], kept: Bool[Tensor, " s"] | None = None
) -> Float[Tensor, "s 3"]:
    """Return scores as colors in [0, 1]: 2 % of the patches are darkest, 2 % brightest.

    Args:
        scores: of the patches.
        kept: those that are shown; others become black.
    """
    kept = torch.ones(len(scores), dtype=torch.bool) if kept is None else kept
    shown = torch.zeros(len(scores), 3)
    if kept.any():
        ends = torch.tensor([0.02, 0.98], dtype=scores.dtype)
        low, high = scores[kept].quantile(ends, dim=0)
        shown[kept] = ((scores[kept] - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
    return shown


def foreground(table: Table) -> Bool[Tensor, " s"]:
    """Return which patches lie on the foreground's side of the first principal component.

    That is the side, below or above its mean, of which fewer patches lie on the images' borders.
    """
    above = principal_scores(table.x)[:, 0] > 0
    border = []
    for rows, columns in table.grids:
        inner = torch.zeros(max(rows - 2, 0), max(columns - 2, 0), dtype=torch.bool)
        full = F.pad(inner, (1, 1, 1, 1), value=True)[:rows, :columns]
        border.append(full.flatten())
    outside = torch.cat(border)
    shares = [(side & outside).sum() / side.sum().clamp_min(1) for side in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def pca_colors(
    tables: Sequence[Table], basis: Basis = "aligned", only_foreground: bool = False
) -> list[list[Float[Tensor, "3 _ _"]]]:
    """Return maps of the colors of each image, for each model.

    Args:
        tables: the patches of the same images by each model, at any grids.
        basis: "aligned": each model has its own components, turned to those of the first, since
            features of two models lie in different spaces; "joint": one for all, for models of one
            width whose features can be compared, such as checkpoints of a run; "each": its own, as
            it is.
        only_foreground: whether the first component separates a foreground (see `foreground`), of
            which the components are then found anew; the rest is black.

    Raises:
        ValueError: a joint basis of models of different width.
    """
    kept = [foreground(table) if only_foreground else None for table in tables]
    if basis == "joint":
        widths = sorted({table.x.shape[1] for table in tables})
        if len(widths) > 1:
            raise ValueError(
                f"models of widths {', '.join(map(str, widths))} have no joint basis; use "
                "--basis aligned"
            )
        sizes = [len(table.x) for table in tables]
        all_kept = (
            torch.cat([each for each in kept if each is not None]) if kept[0] is not None else None
        )
        scores = principal_scores(torch.cat([table.x for table in tables]), all_kept)
        painted = list(colors(scores, all_kept).split(sizes))
    else:
        own = [principal_scores(each.x, part) for each, part in zip(tables, kept, strict=True)]
        if basis == "aligned":
            own = [own[0], *(_to_first(own, tables, place) for place in range(1, len(own)))]
        painted = [colors(each, part) for each, part in zip(own, kept, strict=True)]
    return [table.split(each) for table, each in zip(tables, painted, strict=True)]


def _to_first(
    scores: Sequence[Tensor], tables: Sequence[Table], place: int
) -> Float[Tensor, "s 3"]:
    """Return a model's scores aligned with the first one's, at its own grids."""
    first = tables[0].split(scores[0])
    there = [
        each
        if tuple(each.shape[1:]) == grid
        else F.interpolate(each[None], grid, mode="bilinear", antialias=True)[0]
        for each, grid in zip(first, tables[place].grids, strict=True)
    ]
    return aligned(scores[place], torch.cat([each.flatten(1).T for each in there]))
