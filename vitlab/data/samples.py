"""The files of one split, kept small: a million paths must not weigh on every worker."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, Shaped

from vitlab.data.errors import DataError
from vitlab.data.storage import FileTree

SAMPLE = 64  # samples looked at where looking at all would take too long


@dataclass(frozen=True)
class Samples:
    """Images of one split, with their labels or masks where the dataset has them.

    Attributes:
        files: the tree that all paths start from.
        images: path of each image in it, as bytes. An array of fixed-width bytes takes a
            third of the memory of a list, and forked workers share it without copying.
        labels: class index of each image, or None.
        masks: path of each mask, as bytes, or None.
    """

    files: FileTree
    images: Shaped[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"] | None = None
    masks: Shaped[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> str:
        """Path of one image in `files`."""
        return os.fsdecode(self.images[index])

    def mask(self, index: int) -> str:
        """Path of one mask in `files`; only for datasets that have them."""
        assert self.masks is not None
        return os.fsdecode(self.masks[index])

    def subset(self, limit: int) -> "Samples":
        """The same `limit` samples every time; where there are labels, as many of each class.

        Samples of a class are drawn by a fixed permutation, so neighbors in the listing (frames
        of one video, say) are not preferred. 0 keeps all.
        """
        if limit < 0:
            raise DataError(f"limit {limit} is negative; use 0 for all samples, or a count")
        if limit == 0 or limit >= len(self):
            return self
        shuffled = np.random.default_rng(0).permutation(len(self))
        if self.labels is not None:
            shuffled = shuffled[_turns(self.labels[shuffled])]
        kept = np.sort(shuffled[:limit])
        return replace(
            self,
            images=self.images[kept],
            labels=None if self.labels is None else self.labels[kept],
            masks=None if self.masks is None else self.masks[kept],
        )


def spread(count: int) -> list[int]:
    """Up to SAMPLE indices below `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int)).tolist()


def paths(names: Sequence[str]) -> Shaped[np.ndarray, " n"]:
    """File names as a compact array; undecodable names survive the round trip."""
    return np.array([os.fsencode(name) for name in names])


def _turns(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Order that takes one sample of each class in turn, until all are taken."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - starts
    return np.lexsort((labels, turn))
