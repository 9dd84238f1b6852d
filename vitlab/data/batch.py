"""What the data hand to an objective."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass  # not frozen: Lightning moves the fields to the device in place
class Batch:
    """Views of b images, and their labels where the objective may see them.

    Attributes:
        views: one stack (crops, b, 3, height, width) for each resolution, the largest first;
            RGB, 8 bits from the loader, normalized once on the device. Two global and eight local
            crops are two stacks.
        labels: class index of each image, or None when training is unsupervised.
        unreadable: paths that could not be decoded and were replaced by the next readable image.
        masks: true where the first crop of an image shows its object, throughout where that is not
            known; None where the objective does not ask.
    """

    views: list[Float[Tensor, "_ b 3 _ _"] | UInt8[Tensor, "_ b 3 _ _"]]
    labels: Int[Tensor, " b"] | None = None
    unreadable: tuple[str, ...] = ()
    masks: Bool[Tensor, "b height width"] | None = None

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU can overlap."""
        views = [stack.pin_memory() for stack in self.views]
        labels = None if self.labels is None else self.labels.pin_memory()
        masks = None if self.masks is None else self.masks.pin_memory()
        return Batch(views, labels, self.unreadable, masks)
