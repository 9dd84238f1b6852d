"""Exact nearest neighbors by matrix products, in bounded memory.

Axis letters: n queries, m keys, d width, k neighbors, g keys of a group.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlab.errors import InputError
from vitlab.probes.features import check_finite

Metric = Literal["cosine", "l2"]

_MOST_KEYS = 8192  # of one product; their scores for some hundred queries stay in a CPU's cache
_MOST_SCORES = {"cpu": 2**23, "cuda": 2**28}  # of one product, by kind of device
_GROUP = 16


@dataclass(frozen=True)
class Neighbors:
    """The nearest keys of each query, nearest first.

    Attributes:
        index: of the keys, in the order in which they were added.
        similarity: the cosine; or, for l2, minus half the squared distance.
    """

    index: Int[Tensor, "n k"]
    similarity: Float[Tensor, "n k"]


class NeighborSearch:
    """The k nearest of keys that are added block by block and not kept.

    Equally near keys are in the order in which they were added. Blocks change only the rounding of
    products, in fp32. A cosine with a zero vector is 0.

    Args:
        queries: stay on their device, where the products are computed.
        k: neighbors.
        metric: "cosine" or "l2", the Euclidean distance.
        memory: bytes that the blocks may take, besides queries and result.

    Raises:
        InputError: features that are not finite, or memory for less than one score.
    """

    def __init__(
        self, queries: Float[Tensor, "n d"], k: int, metric: Metric = "cosine", memory: int = 2**28
    ):
        if k < 1:
            raise InputError(f"k {k} is no count of neighbors; use 1 or more", field="k")
        self.queries, self.k, self.metric, self.memory = queries.detach(), k, metric, memory
        check_finite(queries)
        self._found = 0  # keys so far
        self._scores = queries.new_full((len(queries), 0), -torch.inf, dtype=torch.float32)
        self._index = torch.zeros(len(queries), 0, dtype=torch.long, device=queries.device)

    def add(self, keys: Float[Tensor, "m d"]) -> None:
        """Search more keys."""
        columns, rows = blocks(self.memory, self.queries, len(keys), self.k)
        for block in keys.split(columns):
            self._add(block.detach().to(self.queries.device).float(), rows)

    def neighbors(self) -> Neighbors:
        """Return the nearest of all keys so far.

        Raises:
            InputError: fewer than k were added.
        """
        if self._found < self.k:
            raise InputError(
                f"{self.k} neighbors are asked of {self._found} training features; use k "
                f"{self._found} or less, or more training images",
                field="k",
            )
        scores = self._scores
        if self.metric == "l2":
            parts = self.queries.split(max(1, len(self.queries) // 16))
            halves = [part.float().square().sum(1) / 2 for part in parts]
            scores = (scores - torch.cat(halves)[:, None]).clamp_max(0)
        return Neighbors(self._index, scores)

    def _add(self, keys: Float[Tensor, "m d"], rows: int) -> None:
        check_finite(keys)
        keys = self._prepared(keys, keys.square().sum(1, keepdim=True) / -2)
        # reused, since fresh memory takes as long as the product
        scores_of_all = keys.new_empty(min(rows, len(self.queries)), len(keys))
        best, index = [], []
        for start in range(0, len(self.queries), rows):
            part = slice(start, start + rows)
            query = self.queries[part].float()
            query = self._prepared(query, torch.ones_like(query[:, :1]))
            scores = torch.mm(query, keys.T, out=scores_of_all[: len(query)])
            values, position = largest(scores, min(self.k, len(keys)))
            values = torch.cat([self._scores[part], values], 1)
            position = torch.cat([self._index[part], position + self._found], 1)
            # by falling value and, of equal values, by rising position
            position, order = position.sort(1)
            values, place = values.gather(1, order).sort(dim=1, descending=True, stable=True)
            best.append(values[:, : self.k])
            index.append(position.gather(1, place[:, : self.k]))
        if best:
            self._scores, self._index = torch.cat(best), torch.cat(index)
        self._found += len(keys)

    def _prepared(
        self, x: Float[Tensor, "m d"], last: Float[Tensor, "m 1"]
    ) -> Float[Tensor, "m _"]:
        """Return rows whose products are scores: |q - k|^2 / -2 is q k - |k|^2 / 2 - |q|^2 / 2."""
        return F.normalize(x, dim=1) if self.metric == "cosine" else torch.cat([x, last], 1)


def neighbors(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "m d"],
    k: int,
    metric: Metric = "cosine",
    memory: int = 2**28,
) -> Neighbors:
    """Return the k nearest keys of each query; see `NeighborSearch`."""
    search = NeighborSearch(queries, k, metric, memory)
    search.add(keys)
    return search.neighbors()


def blocks(memory: int, queries: Float[Tensor, "n d"], m: int, k: int) -> tuple[int, int]:
    """Return how many keys and how many queries one product may take.

    Args:
        memory: bytes for one block of keys, its scores, and what is made of them.
        queries: of which the width, number and device count.
        m: keys.
        k: neighbors.

    Raises:
        InputError: memory for less than one query and one key.
    """
    d = queries.shape[1]
    columns = min(_MOST_KEYS, max(m, 1))
    while True:
        groups = min(columns, _GROUP * (k + 1))
        # scores, and at worst as much again four times where many are equal; then of each query
        # its normalized copy, the groups that are looked at, and sorted lists of 2 k
        row = 20 * columns + 8 * (d + 1) + 24 * groups + 128 * k
        spare = memory - 8 * (d + 1) * columns  # a block of keys, and its normalized copy
        if spare >= row:
            most = max(1, _MOST_SCORES[queries.device.type] // columns)
            return columns, min(spare // row, most)
        if columns == 1:
            raise InputError(
                f"memory of {memory} bytes does not hold one similarity of {d} wide features and "
                f"{k} neighbors; allow {row + 8 * (d + 1)} bytes or more",
                field="memory",
            )
        columns = (columns + 1) // 2


def largest(
    scores: Float[Tensor, "n m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the k largest of each row and where they are; of equal ones, the first.

    Only the k + 1 groups with the largest maxima can hold them, so that all but one pass over the
    scores looks at a few of them. Their order is not that of their values.
    """
    n, m = scores.shape
    if k >= m:
        return scores, torch.arange(m, device=scores.device).expand(n, m)
    size = m // _GROUP
    if size <= 2 * (k + 1):
        values, position = scores.topk(k + 1, dim=1)
    else:
        grouped = scores[:, : size * _GROUP].unflatten(1, (_GROUP, size))
        group = grouped.amax(1).topk(k + 1, dim=1, sorted=False).indices
        offsets = size * torch.arange(_GROUP, device=scores.device)
        looked = (group[:, None] + offsets[:, None]).flatten(1)
        rest = torch.arange(size * _GROUP, m, device=scores.device).expand(n, -1)
        looked = torch.cat([looked, rest], 1)
        values, place = scores.gather(1, looked).topk(k + 1, dim=1)
        position = looked.gather(1, place)
    # topk may take any of equal ones: where the next is as large as the last, sort all
    tied = (values[:, k] == values[:, k - 1]).nonzero()[:, 0]
    values, position = values[:, :k].contiguous(), position[:, :k].contiguous()
    if len(tied):
        ordered = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], position[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return values, position
