"""Labeled patches of a set of images, standardized, in blocks of bounded memory.

Axis letters: n images, p patches, d width, s labeled patches, l pixels of a patch.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from vitlab.errors import InputError
from vitlab.probes.dense import class_counts
from vitlab.probes.features import StandardScaler, images_per_block


class PatchDataset:
    """The patches of some images whose most frequent label is a class.

    Of equally frequent labels the smallest counts; void is larger than any class.

    Args:
        x: patch features of all images.
        masks: class of each pixel of their squares; 255 is void.
        images: which of them, in this order.
        standard: scaler of the features.
        classes: number of classes.

    Attributes:
        labels: most frequent label of each patch of the bank.
        pixels: labels of its pixels, row by row; void is the number of classes.
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
        grid = (round(x.shape[1] ** 0.5),) * 2
        chosen = [masks[index] for index in images.tolist()]
        most = torch.stack([class_counts(mask, grid, classes).argmax(1) for mask in chosen])
        self.keep: Bool[Tensor, "m p"] = most < classes
        self.labels: Int[Tensor, " s"] = most[self.keep]
        if not len(self.labels):
            raise InputError(
                "no patch of the training masks has a class as its most frequent label, so there "
                "is nothing to learn from; check the masks with `vitlab data check`",
                field="data",
            )
        pixels = [patchify(mask, grid)[keep] for mask, keep in zip(chosen, self.keep, strict=True)]
        self.pixels: UInt8[Tensor, "s l"] = torch.cat(pixels).clamp_max(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, memory: int) -> int:
        """Return how many blocks there are."""
        return -(-len(self.images) // images_per_block(self.x, memory))

    def blocks(
        self, memory: int, device: torch.device
    ) -> Iterator[tuple[Float[Tensor, "_ d"], Int[Tensor, " _"]]]:
        """Yield standardized features and labels, in order."""
        step, begin = images_per_block(self.x, memory), 0
        for start in range(0, len(self.images), step):
            part = slice(start, start + step)
            rows = self.x[self.images[part]][self.keep[part]].to(device)
            yield self.standard(rows), self.labels[begin : begin + len(rows)].to(device)
            begin += len(rows)


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
