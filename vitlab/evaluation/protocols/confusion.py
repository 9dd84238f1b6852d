"""Confusion matrices of each image, whose predicted classes may be renamed to fit the truth best.

Axis letters: n images, c classes, e predicted classes, of which the last may be void.
"""

import torch
from jaxtyping import Float, Int, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vitlab import distributed
from vitlab.probes.metrics import IoUCounts


class PerImageConfusion:
    """Counts the pixels of one image after another, on this rank's share of a set.

    Args:
        predicted: classes that may be predicted: those of the truth, and maybe void as the last.
        classes: number of classes of the truth; larger values in it are ignored.
        device: where ranks exchange tensors.
    """

    def __init__(self, predicted: int, classes: int, device: torch.device):
        self.predicted, self.classes, self.device = predicted, classes, device
        self._rows: list[Tensor] = []

    def update(
        self, predicted: Int[Tensor, "height width"], truth: UInt8[Tensor, "height width"]
    ) -> None:
        """Count one image."""
        truth = truth.to(predicted.device)
        known = truth < self.classes
        index = truth[known].long() * self.predicted + predicted[known]
        counts = torch.bincount(index, minlength=self.classes * self.predicted)
        self._rows.append(counts.view(self.classes, self.predicted).int().cpu())

    def matrices(self) -> Int[Tensor, "n c e"]:
        """Return the matrices of all ranks, in the order of the set (see `sharded_loader`)."""
        rows = torch.zeros(len(self._rows), self.classes, self.predicted, dtype=torch.int32)
        for place, row in zip(rows, self._rows, strict=True):
            place[:] = row
        return distributed.all_gather_rows(rows.to(self.device)).long().cpu()


def matched_counts(matrices: Int[Tensor, "n c e"], columns: Int[Tensor, " c"]) -> IoUCounts:
    """Return the counts of each image, with the predicted class that stands for each class."""
    both = matrices[:, torch.arange(len(columns)), columns]
    return IoUCounts(both, matrices.sum(2), matrices.sum(1)[:, columns])


def best_columns(confusion: Int[Tensor, "c e"]) -> Int[Tensor, " c"]:
    """Return for each class the predicted one that it is matched with, by Kuhn's algorithm."""
    iou = pairwise_iou(confusion)
    # a predicted void is as good as any for a class that is never true
    _, columns = linear_sum_assignment(-iou.numpy())
    return torch.from_numpy(columns)


def pairwise_iou(confusion: Int[Tensor, "c e"]) -> Float[Tensor, "c e"]:
    """Return the IoU of every class with every predicted class."""
    both = confusion.double()
    either = both.sum(1, keepdim=True) + both.sum(0) - both
    return torch.where(either > 0, both / either, 0.0)
