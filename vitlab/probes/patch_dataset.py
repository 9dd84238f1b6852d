"""Labeled patches of a set of images, standardized, in blocks that memory has room for.

Axis letters: n images, p patches, d width, s labeled patches, l pixels of a patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from vitlab.probes.dense import class_counts
from vitlab.probes.finiteness import check_finite


@dataclass(frozen=True)
class StandardScaler:
    """Mean and deviation of each feature, as scikit-learn's StandardScaler has them.

    Attributes:
        mean: over all rows.
        std: of the population; 1 where a feature is constant.
    """

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]

    @classmethod
    def fit(
        cls, x: Float[Tensor, "n p d"], images: Int[Tensor, " m"], memory: int
    ) -> "StandardScaler":
        """Measure the patches of some images, in fp64.

        Raises:
            ValueError: features that are not finite.
        """
        count = len(images) * x.shape[1]
        mean = torch.zeros(x.shape[2], dtype=torch.float64)
        for block in _parts(x, images, memory):
            mean += block.double().sum((0, 1)) / count
        check_finite(mean)
        variance = torch.zeros_like(mean)
        for block in _parts(x, images, memory):
            variance += (block.double() - mean).square().sum((0, 1)) / count
        # rounding of fp32 features that are all alike
        constant = variance <= (1e-7 * mean).square()
        std = torch.where(constant, 1.0, variance.sqrt())
        return cls(mean.float(), std.float())

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return standardized rows.

        Raises:
            ValueError: features that are not finite.
        """
        check_finite(x)
        return (x - self.mean.to(x.device)) / self.std.to(x.device)


class PatchDataset:
    """The patches of some images whose most frequent label is a class.

    Of equally frequent labels the smallest counts; void is larger than any class.

    Args:
        x: patch features of all images.
        masks: class of each pixel of their squares; 255 is void.
        images: which of them, in this order.
        standard: how features are standardized.
        classes: number of classes.

    Attributes:
        labels: most frequent label of each patch of the bank.
        pixels: all labels of it, row by row; void is the number of classes.
    """

    def __init__(
        self,
        x: Float[Tensor, "n p d"],
        masks: UInt8[Tensor, "n size size"],
        images: Int[Tensor, " m"],
        standard: StandardScaler,
        classes: int,
    ):
        self.x, self.images, self.standard = x, images, standard
        edge = round(x.shape[1] ** 0.5)
        labels = [patch_labels(masks[index], (edge, edge), classes) for index in images.tolist()]
        most = torch.stack(labels)
        self.keep: Bool[Tensor, "m p"] = most < classes
        self.labels: Int[Tensor, " s"] = most[self.keep]
        if not len(self.labels):
            raise ValueError(
                "no patch of the training masks has a class as its most frequent label, so there "
                "is nothing to learn from; check the masks with `vitlab data check`"
            )
        self.pixels: UInt8[Tensor, "s l"] = torch.cat(
            [
                patchify(masks[index], (edge, edge))[keep]
                for index, keep in zip(images.tolist(), self.keep, strict=True)
            ]
        ).clamp_max(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, memory: int) -> int:
        """Return how many blocks there are."""
        return -(-len(self.images) // _step(self.x, memory))

    def blocks(
        self, memory: int, device: torch.device
    ) -> Iterator[tuple[Float[Tensor, "_ d"], Int[Tensor, " _"]]]:
        """Yield standardized features and labels, in order, images that fit at a time."""
        step, begin = _step(self.x, memory), 0
        for start in range(0, len(self.images), step):
            part = slice(start, start + step)
            rows = self.x[self.images[part]][self.keep[part]].to(device)
            yield self.standard(rows), self.labels[begin : begin + len(rows)].to(device)
            begin += len(rows)


def patch_labels(
    mask: UInt8[Tensor, "size size"], grid: tuple[int, int], classes: int
) -> Int[Tensor, " p"]:
    """Return the most frequent label of each patch; void is the number of classes."""
    return class_counts(mask, grid, classes).argmax(1)


def patchify(mask: UInt8[Tensor, "size size"], grid: tuple[int, int]) -> UInt8[Tensor, "p l"]:
    """Return the pixels of each patch, row by row; patches tile the mask."""
    rows, columns = (side // cells for side, cells in zip(mask.shape, grid, strict=True))
    cells = mask.view(grid[0], rows, grid[1], columns).transpose(1, 2)
    return cells.reshape(grid[0] * grid[1], rows * columns)


def unpatchify(
    labels: Integer[Tensor, "p l"], grid: tuple[int, int], size: int
) -> Integer[Tensor, "size size"]:
    """Undo `patchify`; one label for each patch fills all of it."""
    rows, columns = (size // cells for cells in grid)
    cells = labels.expand(-1, rows * columns).view(*grid, rows, columns)
    return cells.transpose(1, 2).reshape(size, size)


def _step(x: Float[Tensor, "n p d"], memory: int) -> int:
    """Return how many images a block may have: their rows, a part of these, and a copy."""
    return max(1, memory // (3 * 4 * x.shape[1] * x.shape[2]))


def _parts(
    x: Float[Tensor, "n p d"], images: Int[Tensor, " m"], memory: int
) -> Iterator[Float[Tensor, "_ p d"]]:
    for part in images.split(max(1, _step(x, memory) // 2)):  # in fp64
        yield x[part]
