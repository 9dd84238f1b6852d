"""A linear classifier of patches, scored on pixels by mIoU.

Axis letters: s patches, d width, c classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassConfusionMatrix

from vitlab import parallel
from vitlab.encoders import Encoder, Tokens
from vitlab.probes.linear import LinearMap
from vitlab.probes.probe import Loading, share

IGNORE = 255  # the label of pixels that count for nothing


@dataclass(frozen=True)
class Patches:
    """A table of frozen patch features.

    Attributes:
        x: one row for each patch.
        y: share of each class among its labeled pixels; rows sum to 1.
    """

    x: Float[Tensor, "s d"]
    y: Float[Tensor, "s c"]


@dataclass(frozen=True)
class Segmentation:
    """Intersection over union, in percent.

    Attributes:
        miou: mean over the classes that occur in truth or prediction.
        iou: of each class; NaN where it does not occur.
    """

    miou: float
    iou: Float[Tensor, " c"]


class Dense:
    """vitlab's cheap paired protocol: the linear map that the patches of frozen maps allow.

    Trained on patches, whose target is the class distribution of their pixels: the cross-entropy of
    all pixels if logits were repeated over the patch. Tested on pixels: logits are enlarged
    bilinearly to each mask's own size. One confusion matrix over the whole set.

    Args:
        classes: number of classes.
        decay: L2 penalty.
        steps: L-BFGS iterations at most.
    """

    def __init__(self, classes: int, decay: float = 1e-5, steps: int = 100):
        self.classes, self.decay, self.steps = classes, decay, steps

    def fit(self, encoder: Encoder, images: Dataset, loading: Loading) -> LinearMap:
        """Fit the map on pairs of an image and a mask."""
        patches = self.patches(encoder, images, loading)
        return LinearMap(patches.x, patches.y, self.decay, self.steps)

    def patches(self, encoder: Encoder, images: Dataset, loading: Loading) -> Patches:
        """Return all patches that have a labeled pixel, the whole table on each rank."""
        rows: list[Tensor] = []
        shares: list[Tensor] = []
        for pixels, masks in share(images, loading, stack_images):
            tokens = loading.encode(encoder, pixels)
            rows.append(tokens.patches.float())
            shares.append(torch.stack([self.share_of_classes(m, tokens.grid) for m in masks]))
        # gathered by image, not by patch, so that the order is that of the set on any world size
        x = parallel.gather(torch.cat(rows)).flatten(0, 1)
        y = parallel.gather(torch.cat(shares).to(x.device)).flatten(0, 1)
        labeled = y.sum(1) > 0
        return Patches(x[labeled], F.normalize(y[labeled], p=1, dim=1))

    def share_of_classes(
        self, mask: UInt8[Tensor, "height width"], grid: tuple[int, int]
    ) -> Float[Tensor, "p c"]:
        """Return the pixels of each class in each patch, as shares of its area; void has none."""
        rows, columns = (
            torch.arange(size) * cells // size for size, cells in zip(mask.shape, grid, strict=True)
        )
        patch, known = rows[:, None] * grid[1] + columns, mask < self.classes
        index = patch[known] * self.classes + mask[known].long()
        p = grid[0] * grid[1]
        pixels = torch.bincount(index, minlength=p * self.classes).view(p, self.classes)
        return pixels.float() * (p / mask.numel())

    def evaluate(
        self, encoder: Encoder, classify: LinearMap, images: Dataset, loading: Loading
    ) -> Segmentation:
        """Score the map on pairs of an image and a mask; the same on any number of ranks."""
        confusion = MulticlassConfusionMatrix(
            self.classes, ignore_index=IGNORE, validate_args=False
        ).to(loading.device)
        for pixels, masks in share(images, loading, stack_images):
            logits = patch_logits(classify, loading.encode(encoder, pixels))
            for one, mask in zip(logits, masks, strict=True):
                prediction = enlarge(one, mask.shape).argmax(0)
                confusion.update(prediction[None], mask[None].to(loading.device).long())
        return intersection_over_union(confusion.compute())


def patch_logits(classify: LinearMap, tokens: Tokens) -> Float[Tensor, "b c rows columns"]:
    """Return the class logits of each patch, where it is in the image."""
    return classify(tokens.patches.float()).transpose(1, 2).unflatten(2, tokens.grid)


def enlarge(
    logits: Float[Tensor, "c rows columns"], size: tuple[int, ...]
) -> Float[Tensor, "c height width"]:
    """Return logits of pixels by bilinear interpolation of those of patches."""
    return F.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def intersection_over_union(confusion: Tensor) -> Segmentation:
    """Return the IoU of each class and their mean, from counts[truth, prediction].

    Classes in neither truth nor prediction are left out of the mean.
    """
    both = confusion.diagonal().double()
    either = confusion.sum(0) + confusion.sum(1) - both
    iou = torch.where(either > 0, both / either, torch.nan).float() * 100
    return Segmentation(float(iou.nanmean()), iou.cpu())


def stack_images(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Collate images, which have one size, beside masks, which have their own."""
    return torch.stack([image for image, _ in pairs]), [mask for _, mask in pairs]
