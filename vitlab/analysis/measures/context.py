"""What the images of a batch show, in patches, and where a number belongs.

Axis letters: b images, n tokens, p patches, r roles.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlab.analysis.results import Array, Row
from vitlab.encoders.tokens import Grid

Values = dict[tuple[str, str], Tensor]  # of each image, by measure and role
VOID = 255  # in masks
ROLES = ("cls", "registers", "all", "foreground", "background")  # "all" patches


@dataclass(frozen=True)
class BatchContext:
    """A batch of images as a measure sees it.

    Attributes:
        grid: rows and columns of patches.
        patch: pixels of a patch edge.
        prefix: tokens before the patches; 0 for an encoder without [CLS].
        foreground: patches that lie on an object; none if there are no masks.
        background: patches that do not; where labels are missing, a patch is neither.
        order: of the patches, drawn once: the first ones are a sample.
        rows: patches of an image that enter a table of the whole set.
    """

    grid: Grid
    patch: int
    prefix: int
    foreground: Bool[Tensor, "b p"]
    background: Bool[Tensor, "b p"]
    order: Int[Tensor, " p"]
    rows: int

    @cached_property
    def roles(self) -> Float[Tensor, "b r n"]:
        """1 for the tokens of each of `ROLES`."""
        b, p = self.foreground.shape
        prefix = torch.zeros(b, 2, self.prefix, device=self.foreground.device)
        prefix[:, 0, :1] = 1
        prefix[:, 1, 1:] = 1
        own = torch.stack([torch.ones_like(self.foreground), self.foreground, self.background], 1)
        return torch.cat([F.pad(prefix, (0, p)), F.pad(own.float(), (self.prefix, 0))], dim=1)

    @cached_property
    def distances(self) -> Float[Tensor, "p p"]:
        """Pixels between the middles of two patches."""
        places = torch.cartesian_prod(*(torch.arange(size) for size in self.grid)).view(-1, 2)
        places = places.float().to(self.foreground.device)
        # not by a product of matrices, which would leave rounding on the diagonal
        return self.patch * (places[:, None] - places).norm(dim=-1)


@dataclass(frozen=True)
class Labels:
    """Which patches lie on an object, and which do not."""

    foreground: Bool[Tensor, "b p"]
    background: Bool[Tensor, "b p"]


def labels_of(objects: UInt8[Tensor, "b height width"], patch: int) -> Labels:
    """Return the labels of patches from those of pixels.

    A patch counts if half of its pixels or more are labeled; it is foreground if half of these or
    more are of an object.

    Args:
        objects: 1 on an object, 0 elsewhere, 255 where it is not known.
        patch: pixels of a patch edge.
    """
    known = F.avg_pool2d((objects != VOID).float()[:, None], patch).flatten(1)
    on = F.avg_pool2d((objects == 1).float()[:, None], patch).flatten(1)
    counts = known >= 0.5
    return Labels(counts & (2 * on >= known), counts & (2 * on < known))


@dataclass(frozen=True)
class Place:
    """Where a number was measured.

    Attributes:
        model: label of the model.
        block: number from 0; None for the encoder's output.
        point: inside the block.
    """

    model: str
    block: int | None
    point: str

    def row(self, measure: str, role: str, mean: float, images: int) -> Row:
        """Return a number of the whole set, which has no interval."""
        return Row(
            self.model, measure, self.block, self.point, None, role, mean, None, None, images
        )

    def array(self, measure: str, role: str, values: Tensor, axes: list[str], **more: Any) -> Array:
        """Return numbers that belong together, to six digits."""
        head = more.pop("head", None)
        found = rounded(values)
        return Array(self.model, measure, self.block, self.point, head, role, found, axes, **more)


def rounded(values: Tensor) -> list[Any]:
    """Return nested lists of numbers with six significant digits."""
    if values.ndim > 1:
        return [rounded(each) for each in values]
    return [float(f"{each:.6g}") for each in values.tolist()]
