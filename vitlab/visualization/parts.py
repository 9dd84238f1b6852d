"""Patches in groups of like features, by k-means: parts of things, without labels.

Axis letters: s patches of all images together, d width.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vitlab.visualization.features import Table
from vitlab.visualization.pca import principal_scores

STARTS, STEPS = 8, 50


def parts(x: Float[Tensor, "s d"], count: int, seed: int = 0) -> Int[Tensor, " s"]:
    """Return the part of each patch: k-means of features of unit length, the best of 8 starts.

    Parts are numbered along the first principal component. The order of the patches is of no
    account: they are sorted along it before any is drawn.

    Args:
        x: features.
        count: of parts.
        seed: of the starts.

    Raises:
        ValueError: fewer different patches than parts.
    """
    points = F.normalize(x.double().cpu(), dim=1)
    first = principal_scores(points)[:, 0]
    order = first.argsort(stable=True)
    rows = points[order].numpy()
    numbers = np.random.default_rng(seed)
    best, least = None, float("inf")
    for _ in range(STARTS if len(rows) >= count else 0):
        try:
            with np.errstate(divide="raise", invalid="raise"):
                centers, labels = kmeans2(
                    rows, count, STEPS, minit="++", missing="raise", seed=numbers
                )
        # a part was left without patches, or no patch differs from all centers: no start to keep
        except (ClusterError, FloatingPointError):
            continue
        spread = float(np.square(rows - centers[labels]).sum())
        if spread < least * (1 - 1e-9):
            best, least = labels, spread
    if best is None:
        raise ValueError(
            f"{len(rows)} patches, whose features may be alike, make no {count} "
            "parts; ask for fewer"
        )
    found = torch.empty(len(rows), dtype=torch.int64)
    found[order] = torch.from_numpy(best).long()
    means = torch.stack([first[found == part].mean() for part in range(count)])
    return means.argsort().argsort()[found]


def matched(
    labels: Int[Tensor, " s"], reference: Int[Tensor, " s"], count: int
) -> Int[Tensor, " s"]:
    """Return parts renamed so that as many patches as can be have the name they have elsewhere."""
    overlap = torch.bincount(labels * count + reference, minlength=count**2).view(count, count)
    _, names = linear_sum_assignment(overlap.numpy(), maximize=True)
    return torch.from_numpy(names).long()[labels]


def part_labels(
    tables: Sequence[Table], count: int, seed: int = 0
) -> list[list[Int[Tensor, "_ _"]]]:
    """Return maps of the parts of each image, for each model: all images have the same parts.

    Parts are a model's own; they are named after those of the first that they overlap most with.
    """
    found: list[list[Tensor]] = []
    for table in tables:
        labels = parts(table.x, count, seed)
        if found:
            there = [
                F.interpolate(each[None, None].float(), grid, mode="nearest-exact").flatten()
                for each, grid in zip(found[0], table.grids, strict=True)
            ]
            labels = matched(labels, torch.cat(there).long(), count)
        found.append(table.split(labels))
    return found
