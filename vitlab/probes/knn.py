"""Weighted nearest neighbors, DINO's protocol (arXiv:2104.14294; Wu et al., arXiv:1805.01978)."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from vitlab.errors import InputError
from vitlab.probes.features import Features, Probe
from vitlab.probes.neighbors import Neighbors, neighbors


class KNN(Probe):
    """The k most similar training features vote, each with weight exp(cosine / temperature).

    Args:
        k: neighbors; all training images if there are fewer.
        temperature: of the votes.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07):
        if k < 1 or temperature <= 0:
            raise InputError(
                f"k {k} must be at least 1 and temperature {temperature} above 0", field="k"
            )
        self.k, self.temperature = k, temperature

    def fit(self, train: Features, num_classes: int) -> "KNN":
        """Keep the training features."""
        self.train, self.num_classes = train, num_classes
        return self

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """Return the class with most votes."""
        k = min(self.k, len(self.train.x))
        nearest = neighbors(x, self.train.x, k)
        return votes(nearest, self.train.y, self.num_classes, k, self.temperature).argmax(1)

    def score(self, test: Features) -> dict[str, float]:
        """Return top-1 accuracy in percent."""
        return {"top1": 100 * float((self.predict(test.x) == test.y).sum()) / len(test.y)}


def votes(
    neighbors: Neighbors, labels: Int[Tensor, " m"], classes: int, k: int, temperature: float
) -> Float[Tensor, "n c"]:
    """Return the votes for each class of the first k neighbors, exp(similarity / temperature) each.

    As multiples of the nearest neighbor's vote, so that none overflows at any temperature.
    `labels` are the classes of the keys.
    """
    index, similarity = neighbors.index[:, :k], neighbors.similarity[:, :k].double()
    sums = similarity.new_zeros(len(index), classes)
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    return sums.scatter_add_(1, labels[index], weights)


def majority(
    labels: Integer[Tensor, "n k l"], classes: int, ks: tuple[int, ...]
) -> list[Int[Tensor, "n l"]]:
    """Return the most frequent label of the first k, for several k; the smallest of equal ones.

    Args:
        labels: of each neighbor, in its order, at each of l places.
        classes: labels are below it.
        ks: rising counts of neighbors.
    """
    n, _, places = labels.shape
    counts = torch.zeros(n, places, classes, dtype=torch.int16, device=labels.device)
    found = []
    for before, k in pairwise((0, *ks)):
        more = labels[:, before:k].transpose(1, 2).long()
        counts.scatter_add_(2, more, torch.ones_like(more, dtype=torch.int16))
        found.append(counts.argmax(2))
    return found
