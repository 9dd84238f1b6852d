"""Dense retrieval in context: soft labels from the nearest patches of a memory.

Hummingbird (Balazevic et al., arXiv:2306.01667). The memory is never held as a whole: its features
are processed in blocks while the nearest neighbors of all queries are kept, in fp32, and the labels
of the memory, as 16-bit counts of pixels.

Axis letters: p patches of an image, d width, c classes, m patches of the memory, n queries.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor

from vitlab.probes.neighbors import Neighbors


def sample_patches(
    counts: Int[Tensor, "p c"], seed: tuple[int, ...], most: int
) -> Int[Tensor, " k"]:
    """Sample patches of an image, with preference for rare classes; lowest scores first.

    The score of a patch is, over the classes in it, the sum of how many patches of the image have
    that class, times a uniform random number. Patches without any class are not chosen.

    Args:
        counts: pixels of each class.
        seed: of the random factors.
        most: number of patches.
    """
    present = (counts > 0).float()
    factors = torch.from_numpy(np.random.default_rng(seed).random(len(counts)))
    score = (present @ present.sum(0)) * factors
    order = score.argsort(stable=True)
    return order[present.any(1)[order]][:most]


def soft_labels(
    neighbors: Neighbors, counts: Int16[Tensor, "m c"], temperature: float
) -> Float[Tensor, "n c"]:
    """Return soft labels: the neighbors' shares of classes, by softmax(cosine / temperature).

    Args:
        neighbors: of the queries, by cosine.
        counts: pixels of each class in each patch of the memory.
        temperature: of the softmax.
    """
    near = counts[neighbors.index.to(counts.device)].to(neighbors.similarity.device).float()
    shares = near / near.sum(2, keepdim=True)
    weights = (neighbors.similarity / temperature).softmax(1)
    return (weights[:, None] @ shares)[:, 0]
