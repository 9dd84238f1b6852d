"""Patch features as colors: the first three principal components are red, green and blue.

As in figures of DINOv2 (arXiv:2304.07193); the rules for signs, for several models and for the
foreground are ours.

Axis letters: s patches of all images together, d width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlab.encoders.tokens import Grid
from vitlab.errors import InputError
from vitlab.visualization.features import PatchMatrix

Basis = Literal["aligned", "joint", "each"]
FLAT = 1e-5  # deviation, in parts of the first component's, under which there is only rounding


def pca_scores(
    x: Float[Tensor, "s d"], kept: Bool[Tensor, " s"] | None = None
) -> Float[Tensor, "s 3"]:
    """Return the first three principal components of all patches, each with deviation 1.

    One basis for all images, so that equal scores mean equal features. Signs are fixed by the
    largest loading, so that pictures of successive epochs can be compared. A component that the
    features do not have is 0, and so are the scores of patches that are not kept.
    """
    kept = torch.ones(len(x), dtype=torch.bool) if kept is None else kept
    scores = torch.zeros(len(x), 3, dtype=torch.float64)
    if not kept.any():
        return scores
    inside = x[kept].double().cpu()
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


def align(scores: Float[Tensor, "s 3"], reference: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3"]:
    """Return scores rotated or mirrored to be nearest to those of another model.

    The orthogonal Procrustes problem, for the same places in the same images.
    """
    u, _, v = torch.linalg.svd(scores.T @ reference)
    return scores @ (u @ v)


def colors(
    scores: Float[Tensor, "s 3"], kept: Bool[Tensor, " s"] | None = None
) -> Float[Tensor, "s 3"]:
    """Return scores as colors in [0, 1]: 2 % of the kept patches are darkest, 2 % brightest.

    Patches that are not kept become black.
    """
    kept = torch.ones(len(scores), dtype=torch.bool) if kept is None else kept
    shown = torch.zeros(len(scores), 3)
    if kept.any():
        low, high = scores[kept].quantile(scores.new_tensor([0.02, 0.98]), dim=0)
        shown[kept] = ((scores[kept] - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
    return shown


def foreground(table: PatchMatrix) -> Bool[Tensor, " s"]:
    """Return which patches lie on the foreground's side of the first principal component.

    That is the side, below or above its mean, of which fewer patches lie on the images' borders.
    """
    above = pca_scores(table.x)[:, 0] > 0
    borders = [torch.ones(grid, dtype=torch.bool) for grid in table.grids]
    for border in borders:
        border[1:-1, 1:-1] = False
    outside = torch.cat([border.flatten() for border in borders])
    shares = [(side & outside).sum() / side.sum().clamp_min(1) for side in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def pca_colors(
    tables: Sequence[PatchMatrix], basis: Basis = "aligned", only_foreground: bool = False
) -> list[list[Float[Tensor, "3 _ _"]]]:
    """Return maps of the colors of each image, for each model.

    Args:
        tables: patches of the same images by each model, at any grids.
        basis: "aligned": own components of each model, turned to those of the first, since
            features of two models lie in different spaces; "joint": one basis for models of one
            width whose features can be compared, such as checkpoints of a run; "each": own ones.
        only_foreground: whether the first component separates a foreground (see `foreground`),
            whose components are then found anew; the rest is black.

    Raises:
        InputError: a joint basis of models of different width.
    """
    kept = [foreground(each) if only_foreground else None for each in tables]
    if basis == "joint":
        widths = sorted({table.x.shape[1] for table in tables})
        if len(widths) > 1:
            raise InputError(
                f"models of widths {', '.join(map(str, widths))} have no joint basis; use "
                "--basis aligned",
                field="--basis",
            )
        grids = [grid for table in tables for grid in table.grids]
        whole = PatchMatrix(torch.cat([table.x for table in tables]), grids)
        every = torch.cat(kept) if only_foreground else None
        maps = iter(whole.split(colors(pca_scores(whole.x, every), every)))
        return [[next(maps) for _ in table.grids] for table in tables]
    scores = [pca_scores(table.x, mask) for table, mask in zip(tables, kept, strict=True)]
    if basis == "aligned":
        first = tables[0].split(scores[0])
        for index, table in enumerate(tables[1:], 1):
            scores[index] = align(scores[index], _resampled(first, table.grids))
    found = zip(tables, scores, kept, strict=True)
    return [table.split(colors(each, mask)) for table, each, mask in found]


def _resampled(maps: Sequence[Tensor], grids: Sequence[Grid]) -> Float[Tensor, "s 3"]:
    """Return score maps at other grids, as rows of patches."""
    found = []
    for each, grid in zip(maps, grids, strict=True):
        if tuple(each.shape[1:]) != grid:
            each = F.interpolate(each[None], grid, mode="bilinear", antialias=True)[0]
        found.append(each.flatten(1).T)
    return torch.cat(found)
