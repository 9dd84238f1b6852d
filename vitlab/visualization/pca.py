"""Patch features as colors: the first three principal components are red, green and blue.

As in figures of DINOv2 (arXiv:2304.07193); the rules for signs, for several models and for the
foreground are ours.

Axis letters: s patches of all images together, d width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlab.encoders.tokens import Grid
from vitlab.errors import InputError
from vitlab.option_types import Basis
from vitlab.visualization.features import PatchMatrix

FLAT = 1e-5  # deviation, in parts of the first component's, under which there is only rounding


def pca_scores(x: Float[Tensor, "s d"]) -> Float[Tensor, "s 3"]:
    """Return the first three principal components of all patches, each with deviation 1.

    One basis for all images, so that equal scores mean equal features. Signs are fixed by the
    largest loading, so that pictures of successive epochs can be compared. A component that the
    features do not have is 0.
    """
    x = x.double().cpu()
    x = x - x.mean(0)
    _, basis = torch.linalg.eigh(x.T @ x)
    basis = basis[:, -3:].flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    found = x @ (basis * largest.sign())
    deviation = found.square().mean(0).sqrt()
    there = deviation > FLAT * deviation[0].clamp_min(1e-12)
    found = torch.where(there, found / deviation.where(there, 1), 0)
    return F.pad(found, (0, 3 - found.shape[1]))  # of fewer than three channels


def align(scores: Float[Tensor, "s 3"], reference: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3"]:
    """Return scores rotated or mirrored to be nearest to those of another model.

    The orthogonal Procrustes problem, for the same places in the same images.
    """
    u, _, v = torch.linalg.svd(scores.T @ reference)
    return scores @ (u @ v)


def colors(scores: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3"]:
    """Return scores as colors in [0, 1]: 2 % of the patches are darkest, 2 % brightest."""
    low, high = scores.quantile(scores.new_tensor([0.02, 0.98]), dim=0)
    return ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()


def _where(
    kept: Bool[Tensor, " s"], values: Float[Tensor, "s c"], function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "s 3"]:
    """Return a function of the rows that are kept, in fp64; 0 in all others."""
    found = torch.zeros(len(kept), 3, dtype=torch.float64)
    if kept.any():
        found[kept] = function(values[kept]).double()
    return found


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
    kept = [
        foreground(each) if only_foreground else torch.ones(len(each.x), dtype=torch.bool)
        for each in tables
    ]
    if basis == "joint":
        widths = sorted({table.x.shape[1] for table in tables})
        if len(widths) > 1:
            raise InputError(
                f"models of widths {', '.join(map(str, widths))} have no joint basis; use "
                "--basis aligned",
                field="--basis",
            )
        every = torch.cat(kept)
        scores = _where(every, torch.cat([table.x for table in tables]), pca_scores)
        painted = list(_where(every, scores, colors).split([len(each.x) for each in tables]))
    else:
        own = [_where(mask, table.x, pca_scores) for table, mask in zip(tables, kept, strict=True)]
        if basis == "aligned":
            first = tables[0].split(own[0])
            for index, table in enumerate(tables[1:], 1):
                own[index] = align(own[index], _resampled(first, table.grids))
        painted = [_where(mask, each, colors) for mask, each in zip(kept, own, strict=True)]
    return [table.split(each.float()) for table, each in zip(tables, painted, strict=True)]


def _resampled(maps: Sequence[Tensor], grids: Sequence[Grid]) -> Float[Tensor, "s 3"]:
    """Return score maps at other grids, as rows of patches."""
    found = []
    for each, grid in zip(maps, grids, strict=True):
        if tuple(each.shape[1:]) != grid:
            each = F.interpolate(each[None], grid, mode="bilinear", antialias=True)[0]
        found.append(each.flatten(1).T)
    return torch.cat(found)
