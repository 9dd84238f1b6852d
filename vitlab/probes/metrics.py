"""Metric counts of each image: scores of a set, and of sets resampled from it.

Axis letters: n images, c classes, e predicted classes, of which the last may be void, r resamples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from vitlab import distributed
from vitlab.data.transforms import IGNORE_INDEX

RESAMPLES = 1000


class PerImageCounts(ABC):
    """Counts of each image, in the order of the set; the score depends on their sums."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def score(self, times: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """Return the score in percent of sets with `times` copies of each image."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The counts by name, to be kept beside a result."""

    @property
    def value(self) -> float:
        """The score of the set, in percent."""
        return float(self.score(torch.ones(1, len(self), dtype=torch.float64))[0])


class AccuracyCounts(PerImageCounts):
    """Whether the predicted class of each image is correct: top-1 accuracy."""

    def __init__(self, correct: Bool[Tensor, " n"]):
        self.correct = correct.cpu()

    def __len__(self) -> int:
        return len(self.correct)

    def score(self, times: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """Return accuracies in percent."""
        return 100 * (times @ self.correct.to(times.dtype)) / times.sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """One flag for each image."""
        return {"correct": self.correct}


class IoUCounts(PerImageCounts):
    """Pixels of each class in truth, in prediction and in both, of each image: mIoU.

    Their sums over images are the margins and the diagonal of the one confusion matrix of the set,
    from which mIoU is defined. Ignored pixels are in none of them.
    """

    def __init__(
        self, both: Int[Tensor, "n c"], truth: Int[Tensor, "n c"], predicted: Int[Tensor, "n c"]
    ):
        self.both, self.truth, self.predicted = both.cpu(), truth.cpu(), predicted.cpu()

    def __len__(self) -> int:
        return len(self.both)

    def score(self, times: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """Return mIoU in percent; classes in neither truth nor prediction are left out."""
        return 100 * self._iou(times).nanmean(1)

    def iou(self) -> Float[Tensor, " c"]:
        """Return the IoU of each class in percent; NaN in neither truth nor prediction."""
        return 100 * self._iou(torch.ones(1, len(self), dtype=torch.float64))[0]

    def tensors(self) -> dict[str, Tensor]:
        """Three counts for each image and class."""
        return {"both": self.both, "truth": self.truth, "predicted": self.predicted}

    def _iou(self, times: Float[Tensor, "r n"]) -> Float[Tensor, "r c"]:
        both = times @ self.both.to(times.dtype)
        either = times @ (self.truth + self.predicted - self.both).to(times.dtype)
        return torch.where(either > 0, both / either, torch.nan)


class IoUAccumulator:
    """Accumulates the pixel counts of images, on this rank's share of a set.

    Args:
        classes: number of classes; 255 in a truth is ignored.
        device: of the counts.
    """

    def __init__(self, classes: int, device: torch.device = torch.device("cpu")):  # noqa: B008
        self.classes, self.device = classes, device
        self._rows = [torch.zeros(0, 3, classes, dtype=torch.long, device=device)]

    def update(self, predicted: Int[Tensor, "height width"], truth: Tensor) -> None:
        """Count one image by the predicted and the true class of each pixel."""
        matrix = multiclass_confusion_matrix(  # rows are the truth, columns the prediction
            predicted[None],
            truth[None].to(predicted.device).long(),
            self.classes,
            ignore_index=IGNORE_INDEX,
            validate_args=False,
        )
        row = torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])
        self._rows.append(row[None].to(self.device))

    def overlaps(self) -> IoUCounts:
        """Return the counts of all ranks, in the order of the set."""
        return IoUCounts(*distributed.all_gather_rows(torch.cat(self._rows)).unbind(1))


class PerImageConfusion:
    """Counts the pixels of one image after another, on this rank's share of a set.

    Args:
        predicted: classes that may be predicted: those of the truth, and maybe void as the last.
        classes: number of classes of the truth; larger values in it are ignored.
        device: where ranks exchange tensors.
    """

    def __init__(self, predicted: int, classes: int, device: torch.device):
        self.predicted, self.classes, self.device = predicted, classes, device
        self._rows = [torch.zeros(0, classes, predicted, dtype=torch.int32)]

    def update(
        self, predicted: Int[Tensor, "height width"], truth: UInt8[Tensor, "height width"]
    ) -> None:
        """Count one image."""
        truth = truth.to(predicted.device)
        known = truth < self.classes
        index = truth[known].long() * self.predicted + predicted[known]
        counts = torch.bincount(index, minlength=self.classes * self.predicted)
        self._rows.append(counts.view(1, self.classes, self.predicted).int().cpu())

    def matrices(self) -> Int[Tensor, "n c e"]:
        """Return the matrices of all ranks, in the order of the set (see `sharded_loader`)."""
        return distributed.all_gather_rows(torch.cat(self._rows).to(self.device)).long().cpu()


def matched_counts(matrices: Int[Tensor, "n c e"], columns: Int[Tensor, " c"]) -> IoUCounts:
    """Return the counts of each image, with the predicted class that stands for each class."""
    both = matrices[:, torch.arange(len(columns)), columns]
    return IoUCounts(both, matrices.sum(2), matrices.sum(1)[:, columns])


def best_columns(confusion: Int[Tensor, "c e"]) -> Int[Tensor, " c"]:
    """Return for each class the predicted one that it is matched with, by Kuhn's algorithm."""
    both = confusion.double()
    either = both.sum(1, keepdim=True) + both.sum(0) - both
    iou = torch.where(either > 0, both / either, 0.0)
    # a predicted void is as good as any for a class that is never true
    _, columns = linear_sum_assignment(-iou.numpy())
    return torch.from_numpy(columns)


def bootstrap_interval(
    evidence: PerImageCounts, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % interval of the score, by the percentile bootstrap over images.

    It covers the choice of test images, not the variance of training runs. A drawn set without any
    labeled pixel has no score and is left out.
    """
    return percentile_interval(bootstrap_scores(len(evidence), evidence.score, seed, resamples))


def percentile_interval(scores: Float[Tensor, " r"]) -> tuple[float, float]:
    """Return the 95 % interval of resampled scores; those that are NaN are left out."""
    low, high = scores.nanquantile(torch.tensor([0.025, 0.975], dtype=scores.dtype)).tolist()
    return low, high


def bootstrap_scores(
    n: int,
    score: Callable[[Float[Tensor, "r n"]], Float[Tensor, " r"]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Float[Tensor, " resamples"]:
    """Return a score on sets of n images drawn with replacement from n; NaN where undefined."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(resamples):  # one row at a time: a set may have a hundred thousand images
        drawn = torch.randint(n, (n,), generator=generator)
        scores.append(score(torch.bincount(drawn, minlength=n).double()[None]))
    return torch.cat(scores)
