"""Context of a batch for measures: grid, roles of tokens, objects.

Axis letters: b images, n tokens, p patches, r roles.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlab.encoders.tokens import Grid

Values = dict[tuple[str, str], Tensor]  # by measure and role
# patches on an object, and patches that are not; where masks are void, neither
PatchLabels = tuple[Bool[Tensor, "b p"], Bool[Tensor, "b p"]]
VOID = 255  # in masks
ROLES = ("cls", "registers", "all", "foreground", "background")  # "all" patches


@dataclass(frozen=True)
class BatchContext:
    """What measures need to know of a batch of images.

    Attributes:
        grid: rows and columns of patches.
        patch_size: pixels of a patch edge.
        prefix: tokens before the patches; 0 for an encoder without [CLS].
        foreground: patches on an object; none without masks.
        background: patches that are not; none without masks.
        rows: patches of an image that enter a table of the whole set.
    """

    grid: Grid
    patch_size: int
    prefix: int
    foreground: Bool[Tensor, "b p"]
    background: Bool[Tensor, "b p"]
    rows: int

    @cached_property
    def order(self) -> Int[Tensor, " p"]:
        """The patches in an order drawn once: the first ones are a sample."""
        drawn = torch.Generator().manual_seed(0)
        order = torch.randperm(self.grid[0] * self.grid[1], generator=drawn)
        return order.to(self.foreground.device)

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
        """Pixels between the centers of two patches."""
        places = torch.cartesian_prod(*(torch.arange(size) for size in self.grid)).view(-1, 2)
        places = places.float().to(self.foreground.device)
        # not by a product of matrices, which would leave rounding on the diagonal
        return self.patch_size * (places[:, None] - places).norm(dim=-1)


def no_objects(batch: int, grid: Grid, device: torch.device) -> PatchLabels:
    """Return the labels of patches of images without masks."""
    none = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool, device=device)
    return none, none


def label_patches(objects: UInt8[Tensor, "b height width"], patch_size: int) -> PatchLabels:
    """Return the labels of patches from those of pixels.

    A patch counts if half of its pixels or more are labeled; it is foreground if half of these or
    more are of an object.

    Args:
        objects: 1 on an object, 0 elsewhere, 255 unknown.
        patch_size: pixels of a patch edge.
    """
    known = F.avg_pool2d((objects != VOID).float()[:, None], patch_size).flatten(1)
    on = F.avg_pool2d((objects == 1).float()[:, None], patch_size).flatten(1)
    counts = known >= 0.5
    return counts & (2 * on >= known), counts & (2 * on < known)
