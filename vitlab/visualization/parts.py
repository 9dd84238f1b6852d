"""Parts of objects without labels: k-means of patch features.

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

from vitlab.errors import InputError
from vitlab.visualization.features import PatchMatrix
from vitlab.visualization.pca import pca_scores

STARTS, STEPS = 8, 50  # of k-means; more steps follow until no patch changes its part


def kmeans_parts(x: Float[Tensor, "s d"], count: int) -> Int[Tensor, " s"]:
    """Return the part of each patch: k-means of features of unit length, the best of 8 starts.

    Parts are numbered along the first principal component. The order of the patches does not
    matter: they are sorted along it before any is drawn.

    Raises:
        InputError: fewer different patches than parts.
    """
    points = F.normalize(x.double().cpu(), dim=1)
    first = pca_scores(points)[:, 0]
    order = first.argsort(stable=True)
    rows = points[order].numpy()
    generator = np.random.default_rng(0)
    best, least = None, float("inf")
    for _ in range(STARTS if len(rows) >= count else 0):
        try:
            with np.errstate(divide="raise", invalid="raise"):
                centers, labels = kmeans2(
                    rows, count, STEPS, minit="++", missing="raise", seed=generator
                )
                before = None
                while before is None or (before != labels).any():
                    before = labels
                    centers, labels = kmeans2(rows, centers, 1, minit="matrix", missing="raise")
        # an empty part, or no patch that differs from all centers: not a start to keep
        except (ClusterError, FloatingPointError):
            continue
        spread = float(np.square(rows - centers[labels]).sum())
        if spread < least * (1 - 1e-9):
            best, least = labels, spread
    if best is None:
        raise InputError(
            f"{len(rows)} patches, whose features may be alike, make no {count} parts; ask for "
            "fewer",
            field="--parts",
        )
    found = torch.empty(len(rows), dtype=torch.int64)
    found[order] = torch.from_numpy(best).long()
    means = torch.stack([first[found == part].mean() for part in range(count)])
    return means.argsort().argsort()[found]


def part_labels(tables: Sequence[PatchMatrix], count: int) -> list[list[Int[Tensor, "_ _"]]]:
    """Return maps of the parts of each image, for each model.

    All images have the same parts. Those of other models are numbered as the parts of the first
    model that they overlap most with.
    """
    found: list[list[Tensor]] = []
    for table in tables:
        labels = kmeans_parts(table.x, count)
        if found:
            there = [
                F.interpolate(each[None, None].float(), grid, mode="nearest-exact").flatten()
                for each, grid in zip(found[0], table.grids, strict=True)
            ]
            pairs = labels * count + torch.cat(there).long()
            overlap = pairs.bincount(minlength=count**2).view(count, count)
            _, numbers = linear_sum_assignment(overlap.numpy(), maximize=True)
            labels = torch.from_numpy(numbers).long()[labels]
        found.append(table.split(labels))
    return found
