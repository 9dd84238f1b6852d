"""Sums over images, from which means with intervals are computed; no image is kept.

Axis letters: b images, h heads.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor

from vitlab.analysis.measures.context import Location, Values
from vitlab.analysis.results import Row

Point = tuple[int | None, str]  # block and point
Key = tuple[int | None, str, str, str]  # block, point, measure, role


def mean_interval(
    count: float, total: float, squares: float
) -> tuple[float, float | None, float | None]:
    """Return a mean with its 95 % interval by Student's t; None for the bounds of one image."""
    mean = total / count
    if count < 2:
        return mean, None, None
    variance = max(squares - total * mean, 0.0) / (count - 1)
    half = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


@dataclass
class Accumulator:
    """Counts, sums and sums of squares of every measure, in double precision."""

    pending: dict[Key, Tensor] = field(default_factory=dict)  # of one batch, (b,) or (b, h)
    kept: dict[Key, Tensor] = field(default_factory=dict)  # sums of all batches, (3,) or (3, 1 + h)
    totals: dict[Key, Tensor] = field(default_factory=dict)  # sums of arrays over all images
    images: int = 0

    def add(self, point: Point, values: Values) -> None:
        """Add numbers of each image; NaN means undefined, and is left out."""
        for name, each in values.items():
            self.pending[*point, *name] = each

    def add_sums(self, point: Point, sums: Values) -> None:
        """Add arrays that are summed over the images of the batch."""
        for name, each in sums.items():
            key = (*point, *name)
            self.totals[key] = (
                self.totals[key] + each.double() if key in self.totals else each.double()
            )

    def flush(self, images: int) -> None:
        """Sum the numbers of one batch; together, for there are a thousand small tensors."""
        by_shape: dict[torch.Size, list[Key]] = {}
        for key, each in sorted(self.pending.items(), key=lambda item: item[1].ndim):
            by_shape.setdefault(each.shape, []).append(key)
        for keys in by_shape.values():
            self._sum(keys, torch.stack([self.pending[key].double() for key in keys]))
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
                    mean = mean_interval(*own)
                    yield Row(model, measure, block, point, head, role, *mean, int(own[0]))

    def arrays(self, model: str) -> Iterator[tuple[Location, str, Mapping[str, Tensor]]]:
        """Yield location, measure, and the sums of each role."""
        found: dict[tuple[int | None, str, str], dict[str, Tensor]] = {}
        for (block, point, measure, role), each in self.totals.items():
            found.setdefault((block, point, measure), {})[role] = each.cpu()
        for (block, point, measure), total in found.items():
            yield Location(model, block, point), measure, total
