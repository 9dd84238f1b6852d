"""Sums over images, from which means with intervals are made; nothing of an image is kept.

Axis letters: b images, h heads.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor

from vitlab.analysis.measures.context import Place, Values
from vitlab.analysis.results import Row

Where = tuple[int | None, str]  # block and point
Key = tuple[int | None, str, str, str]  # block, point, measure, role


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval; None where there is no spread to tell it from."""

    value: float
    low: float | None
    high: float | None
    images: int


def mean_of(count: float, total: float, squares: float) -> Mean:
    """Return mean and interval by Student's t, from sums over so many images.

    Args:
        count: of images.
        total: of their numbers.
        squares: of these, squared.
    """
    value = total / count
    if count < 2:
        return Mean(value, None, None, int(count))
    variance = max(squares - total * value, 0.0) / (count - 1)
    half = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return Mean(value, value - half, value + half, int(count))


@dataclass
class Accumulator:
    """Counts, sums and sums of squares of every measure, in double precision.

    Attributes:
        pending: numbers of one batch, (b,) or (b, h), by what they are.
        kept: sums of all batches, (3,) or (3, 1 + h).
        totals: sums of arrays over all images.
        images: that were seen.
    """

    pending: dict[Key, Tensor] = field(default_factory=dict)
    kept: dict[Key, Tensor] = field(default_factory=dict)
    totals: dict[Key, Tensor] = field(default_factory=dict)
    images: int = 0

    def add(self, where: Where, values: Values) -> None:
        """Take numbers of each image; NaN means undefined, and is left out."""
        for name, each in values.items():
            self.pending[*where, *name] = each

    def add_sums(self, where: Where, sums: Values) -> None:
        """Take arrays that are summed over the images of the batch."""
        for name, each in sums.items():
            key = (*where, *name)
            each = each.double()
            self.totals[key] = self.totals[key] + each if key in self.totals else each

    def flush(self, images: int) -> None:
        """Sum up one batch; all at once, for there are a thousand small tensors."""
        for axes in (1, 2):
            keys = [key for key, each in self.pending.items() if each.ndim == axes]
            shapes = {tuple(self.pending[key].shape) for key in keys}
            for shape in shapes:
                same = [key for key in keys if tuple(self.pending[key].shape) == shape]
                stacked = torch.stack([self.pending[key].double() for key in same])
                self._sum(same, stacked)
        self.pending.clear()
        self.images += images

    def _sum(self, keys: list[Key], values: Tensor) -> None:
        """Add numbers (keys, b) or (keys, b, h); of heads, their mean comes first."""
        if values.ndim == 3:
            values = torch.cat([values.nanmean(2, keepdim=True), values], dim=2)
        known = ~values.isnan()
        values = values.nan_to_num(0.0)
        sums = [known.double().sum(1), values.sum(1), values.square().sum(1)]
        for key, each in zip(keys, torch.stack(sums, 1).cpu(), strict=True):
            self.kept[key] = self.kept[key] + each if key in self.kept else each

    def rows(self, model: str) -> Iterator[Row]:
        """Yield a row for each number that was defined for some image."""
        for (block, point, measure, role), sums in self.kept.items():
            columns = sums.reshape(3, -1).T.tolist()
            heads = [None, *range(len(columns) - 1)]
            for head, own in zip(heads, columns, strict=True):
                if own[0]:
                    mean = mean_of(*own)
                    yield Row(
                        *(model, measure, block, point, head, role),
                        *(mean.value, mean.low, mean.high, mean.images),
                    )

    def arrays(self, model: str) -> Iterator[tuple[Place, str, Mapping[str, Tensor]]]:
        """Yield where, of which measure, and the sums of each role."""
        found: dict[tuple[int | None, str, str], dict[str, Tensor]] = {}
        for (block, point, measure, role), each in self.totals.items():
            found.setdefault((block, point, measure), {})[role] = each.cpu()
        for (block, point, measure), total in found.items():
            yield Place(model, block, point), measure, total
