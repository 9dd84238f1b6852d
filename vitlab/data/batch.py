"""What the data hand to an objective."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass  # not frozen: Lightning moves the fields to the device in place
class Batch:
    """Views of b images, and their labels where the objective may see them.

    Attributes:
        views: one stack for each resolution, the largest first. All crops of a stack have one
            size; normalized RGB. Two global and eight local crops are two stacks.
        labels: class index of each image, or None when training is unsupervised.
        unreadable: paths that could not be decoded and were replaced by the next readable image.
    """

    views: list[Float[Tensor, "crops b 3 height width"]]
    labels: Int[Tensor, " b"] | None = None
    unreadable: tuple[str, ...] = ()
