"""CAPI's dense nearest neighbors (arXiv:2502.08769, code facebookresearch/capi)."""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.errors import InputError
from vitlab.evaluation.protocol import EvaluationContext, Precision
from vitlab.evaluation.protocols.resized import Predicted, ResizedProtocol
from vitlab.probes.knn import majority
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.neighbors import Metric, Neighbors, NeighborSearch
from vitlab.probes.patch_dataset import PatchDataset


class DenseKNN(ResizedProtocol):
    """Each pixel of a patch gets the label most frequent there among the nearest training patches.

    As in the released code, labels travel pixel by pixel: of k neighbors, the pixels at the same
    place in the patch vote, void among them. Of equally frequent labels the smallest wins, void
    last. A pixel that is predicted void is missed, and void is no class of the mean.

    Args:
        ks: counts of neighbors to try, rising.
        metrics: distances to try.
        transfer: "pixels" as described; "patches" gives each patch the most frequent label of its
            neighbors, each of which has one.
        size: pixels of the square's edge.
        layer_selection: which features of patches.
        holdout_fraction: share of the training images that decides.
        precision: of the forward pass.
    """

    def __init__(
        self,
        ks: tuple[int, ...] = (1, 3, 10, 30),
        metrics: tuple[Metric, ...] = ("cosine", "l2"),
        transfer: Literal["pixels", "patches"] = "pixels",
        size: int = 224,
        layer_selection: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        holdout_fraction: float = 0.1,
        precision: Precision = "fp32",
    ):
        super().__init__(size, layer_selection, holdout_fraction, precision)
        if not ks or not metrics or sorted(set(ks)) != list(ks) or not 0 < ks[0] <= ks[-1] < 2**15:
            raise InputError(
                f"ks {ks} must be rising counts of neighbors, with one metric or more",
                field="protocol.ks",
            )
        self.ks, self.metrics, self.transfer = tuple(ks), tuple(metrics), transfer
        self._grid = list(product(self.ks, self.metrics))

    @property
    def settings(self) -> list[str]:
        """Every k with every metric."""
        return [f"k {k}, {metric}" for k, metric in self._grid]

    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[int],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        """Find the neighbors by each metric once, and let them vote for each k."""
        asked = [self._grid[index] for index in settings]
        metrics = list(dict.fromkeys(metric for _, metric in asked))
        most = {metric: max(k for k, each in asked if each == metric) for metric in metrics}
        half = context.memory // 2
        searches = {metric: NeighborSearch(x, most[metric], metric, half) for metric in metrics}
        blocks = patches.blocks(half, context.device)
        for keys, _ in context.track(blocks, "neighbors", total=patches.count(half)):
            for search in searches.values():
                search.add(keys)
        found: dict[tuple[int, str], Tensor] = {}
        for metric, search in searches.items():
            ks = tuple(sorted(k for k, each in asked if each == metric))
            votes = self._vote(patches, search.neighbors(), ks, classes, context)
            found |= {(k, metric): labels for k, labels in zip(ks, votes, strict=True)}
        return [found[each] for each in asked]

    def _vote(
        self,
        patches: PatchDataset,
        neighbors: Neighbors,
        ks: tuple[int, ...],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        labels = patches.pixels if self.transfer == "pixels" else patches.labels[:, None]
        most, places = ks[-1], labels.shape[1]

        def vote(rows: slice) -> Predicted:
            index = neighbors.index[rows, :most].to(labels.device)
            near = labels[index].to(context.device)
            return [each.to(torch.uint8).cpu() for each in majority(near, classes + 1, ks)]

        # counts of each class, 2 bytes; neighbors' labels as bytes and as indices; the labels found
        one = places * (2 * (classes + 1) + 12 * most + 9 * len(ks)) + 8 * most
        block = context.memory // one
        if block < 1:
            raise InputError(
                f"memory of {context.memory} bytes does not hold the votes of one patch; allow "
                f"{one} bytes or more",
                field="--memory",
            )
        # at least one block: a rank may have nothing to label
        starts = range(0, max(len(neighbors.index), 1), block)
        parts = [vote(slice(start, start + block)) for start in starts]
        return [torch.cat(each) for each in zip(*parts, strict=True)]
