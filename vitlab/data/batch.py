"""A batch of views, and its examples."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlab.data.transforms import Stack


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


@dataclass(frozen=True)
class Example:
    """One training image.

    Attributes:
        views: its crops, one stack for each resolution.
        label: class index, or None.
        unreadable: files that could not be read, whose place this image takes.
        mask: true where its first crop shows the object; everywhere, where there is no mask. None
            where masks are not used.
    """

    views: list[Stack]
    label: int | None
    unreadable: tuple[str, ...]
    mask: Bool[Tensor, "size size"] | None = None


def collate(examples: list[Example]) -> Batch:
    """One stack (crops, b, 3, size, size) for each resolution."""
    labels = [example.label for example in examples if example.label is not None]
    masks = [example.mask for example in examples if example.mask is not None]
    return Batch(
        views=[
            # along rows of pixels, as they lie in memory: ten times faster than along channels
            torch.stack([stack.permute(0, 2, 3, 1) for stack in stacks], 1).permute(0, 1, 4, 2, 3)
            for stacks in zip(*(example.views for example in examples), strict=True)
        ],
        labels=torch.tensor(labels) if labels else None,
        unreadable=tuple(path for example in examples for path in example.unreadable),
        masks=torch.stack(masks) if masks else None,
    )
