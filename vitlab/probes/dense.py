"""A linear classifier of patches, scored on pixels by mIoU.

Axis letters: s patches, d width, c classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SegmentationTransform, VisionDataModule
from vitlab.data.dataset import SegmentationDataset
from vitlab.encoders import Encoder, Tokens
from vitlab.probes.features import InferenceConfig, sharded_loader
from vitlab.probes.finiteness import check_finite
from vitlab.probes.logistic import LinearClassifier
from vitlab.probes.metrics import IoUAccumulator, IoUCounts

See = Callable[[Tokens, list[Tensor]], None]  # features of test images, and their masks
# several readings of a batch of images, by one pass; and one who is shown them, and the masks
Encode = Callable[[Tensor], Sequence[Tokens]]
SeeAll = Callable[[Sequence[Tokens], list[Tensor]], object]

ALL_VOID = (
    "all pixels of all training masks are void, so there is nothing to learn from; check the masks "
    "with `vitlab data check`"
)


@dataclass(frozen=True)
class PatchFeatures:
    """A table of frozen patch features.

    Attributes:
        x: one row for each patch.
        y: share of each class among its labeled pixels; rows sum to 1.
    """

    x: Float[Tensor, "s d"]
    y: Float[Tensor, "s c"]


@dataclass(frozen=True)
class SegmentationScore:
    """Intersection over union, in percent.

    Attributes:
        overlaps: counts of each image.
        miou: mean over the classes that occur in truth or prediction.
        iou: of each class; NaN where it does not occur.
    """

    overlaps: IoUCounts

    @property
    def miou(self) -> float:
        """Of the one confusion matrix of the set."""
        return self.overlaps.value

    @property
    def iou(self) -> Float[Tensor, " c"]:
        """Of the one confusion matrix of the set."""
        return self.overlaps.iou()


@dataclass(frozen=True)
class FittedDenseProbe:
    """A map that was fitted and scored.

    Attributes:
        classify: the map.
        images: what it was scored on.
        score: of it.
    """

    classify: LinearClassifier
    images: SegmentationDataset
    score: SegmentationScore


class DenseProbe:
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

    def run(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        view: SegmentationTransform,
        limit: int,
        loading: InferenceConfig,
        see: See | None = None,
    ) -> FittedDenseProbe:
        """Fit the map on a dataset's training split and score it on the other.

        The callback that measures while an encoder trains and the command that evaluates afterwards
        both call this, so that their figures agree.

        Args:
            encoder: in evaluation mode.
            data: with masks.
            view: what images and masks become.
            limit: training images; 0 for all.
            loading: device, batch and workers.
            see: is shown what passes of the split it is scored on.
        """
        test = data.segmentation_dataset(data.val_split, view)
        classify = self.fit(
            encoder, data.segmentation_dataset(data.train_split, view, limit), loading
        )
        return FittedDenseProbe(
            classify, test, self.evaluate(encoder, classify, test, loading, see)
        )

    def fit(self, encoder: Encoder, images: Dataset, loading: InferenceConfig) -> LinearClassifier:
        """Fit the map on pairs of an image and a mask."""
        (classify,) = self.fit_all(_output(encoder, loading), images, loading)
        return classify

    def fit_all(
        self, encode: Encode, images: Dataset, loading: InferenceConfig, see: SeeAll | None = None
    ) -> list[LinearClassifier]:
        """Fit a map to each reading of the images, which pass once."""
        maps = []
        for patches in self.tables(encode, images, loading, see):
            if not len(patches.x):
                raise ValueError(ALL_VOID)
            maps.append(LinearClassifier(patches.x, patches.y, self.decay, self.steps))
        return maps

    def patches(self, encoder: Encoder, images: Dataset, loading: InferenceConfig) -> PatchFeatures:
        """Return all patches that have a labeled pixel, the whole table on each rank.

        Raises:
            ValueError: features that are not finite.
        """
        (table,) = self.tables(_output(encoder, loading), images, loading)
        return table

    def tables(
        self, encode: Encode, images: Dataset, loading: InferenceConfig, see: SeeAll | None = None
    ) -> Iterator[PatchFeatures]:
        """Yield the table of each reading, see `patches`; each makes room for the next."""
        rows: list[list[Tensor]] = []
        shares: list[Tensor] = []
        for pixels, masks in sharded_loader(images, loading, stack_images):
            found = encode(pixels)
            check_finite(*(tokens.patches for tokens in found))
            rows = rows or [[] for _ in found]
            for own, tokens in zip(rows, found, strict=True):
                own.append(tokens.patches.float())
            shares.append(torch.stack([self.share_of_classes(m, found[0].grid) for m in masks]))
            if see is not None:
                see(found, masks)
        # gathered by image, not by patch, so that the order is that of the set on any world size
        y = distributed.all_gather_rows(torch.cat(shares).to(rows[0][0].device)).flatten(0, 1)
        labeled = y.sum(1) > 0
        y = F.normalize(y[labeled], p=1, dim=1)
        while rows:
            x = distributed.all_gather_rows(torch.cat(rows.pop(0))).flatten(0, 1)
            yield PatchFeatures(x[labeled], y)

    def share_of_classes(
        self, mask: UInt8[Tensor, "height width"], grid: tuple[int, int]
    ) -> Float[Tensor, "p c"]:
        """Return the pixels of each class in each patch, as shares of its area; void has none."""
        counts = class_counts(mask, grid, self.classes)[:, : self.classes]
        return counts.float() * (grid[0] * grid[1] / mask.numel())

    def evaluate(
        self,
        encoder: Encoder,
        classify: LinearClassifier,
        images: Dataset,
        loading: InferenceConfig,
        see: See | None = None,
    ) -> SegmentationScore:
        """Score the map on pairs of an image and a mask; the same on any number of ranks."""

        def shown(found: Sequence[Tokens], masks: list[Tensor]) -> None:
            if see is not None:
                see(found[0], masks)

        encode = _output(encoder, loading)
        (overlaps,) = self.evaluate_all(encode, [classify], images, loading, shown)
        return SegmentationScore(overlaps)

    def evaluate_all(
        self,
        encode: Encode,
        maps: Sequence[LinearClassifier],
        images: Dataset,
        loading: InferenceConfig,
        see: SeeAll | None = None,
    ) -> list[IoUCounts]:
        """Return the counts of a map for each reading of the images, which pass once."""
        counting = [IoUAccumulator(self.classes, loading.device) for _ in maps]
        for pixels, masks in sharded_loader(images, loading, stack_images):
            found = encode(pixels)
            check_finite(*(tokens.patches for tokens in found))
            if see is not None:
                see(found, masks)
            for count, classify, tokens in zip(counting, maps, found, strict=True):
                for one, mask in zip(patch_logits(classify, tokens), masks, strict=True):
                    count.update(enlarge(one, mask.shape).argmax(0), mask)
        return [count.overlaps() for count in counting]


def _output(encoder: Encoder, loading: InferenceConfig) -> Encode:
    return lambda pixels: [loading.encode(encoder, pixels)]


def class_counts(
    mask: UInt8[Tensor, "height width"], grid: tuple[int, int], classes: int
) -> Int[Tensor, "p _"]:
    """Return the pixels of each class in each patch, and behind them those of no class.

    Patches need not tile the mask: each pixel belongs to the patch that its corner lies in.
    """
    rows, columns = (
        torch.arange(size) * cells // size for size, cells in zip(mask.shape, grid, strict=True)
    )
    patch = rows[:, None] * grid[1] + columns
    index = patch * (classes + 1) + mask.long().clamp_max(classes)
    p = grid[0] * grid[1]
    return torch.bincount(index.flatten(), minlength=p * (classes + 1)).view(p, classes + 1)


def patch_logits(classify: LinearClassifier, tokens: Tokens) -> Float[Tensor, "b c rows columns"]:
    """Return the class logits of each patch, where it is in the image."""
    return classify(tokens.patches.float()).transpose(1, 2).unflatten(2, tokens.grid)


def enlarge(
    logits: Float[Tensor, "c rows columns"], size: tuple[int, ...]
) -> Float[Tensor, "c height width"]:
    """Return logits of pixels by bilinear interpolation of those of patches."""
    return F.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def stack_images(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Collate images, which have one size, beside masks, which have their own."""
    return torch.stack([image for image, _ in pairs]), [mask for _, mask in pairs]
