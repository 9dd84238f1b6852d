"""Linear classification of patches, scored on pixels by mIoU.

Axis letters: s patches, p patches of an image, d width, c classes.
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
from vitlab.errors import InputError
from vitlab.probes.features import InferenceConfig, check_finite, sharded_loader
from vitlab.probes.logistic import TOLERANCE, LinearClassifier
from vitlab.probes.metrics import IoUAccumulator, IoUCounts
from vitlab.progress import track

# several feature sets of a batch of images, by one forward pass
Encode = Callable[[Tensor], Sequence[Tokens]]
OnBatch = Callable[[Sequence[Tokens], list[Tensor]], object]  # of feature sets and masks

ALL_VOID = (
    "all pixels of all training masks are void, so there is nothing to learn from; check the masks "
    "with `vitlab data check`"
)


@dataclass(frozen=True)
class FittedDenseProbe:
    """A fitted classifier, the test images, and the counts on them, whose value is the mIoU."""

    classify: LinearClassifier
    images: SegmentationDataset
    counts: IoUCounts


class DenseProbe:
    """vitlab's cheap paired protocol: logistic regression on frozen patches.

    Trained on patches, whose target is the class distribution of their pixels: the cross-entropy of
    all pixels if logits were repeated over the patch. Tested on pixels: logits are upsampled
    bilinearly to each mask's own size. One confusion matrix over the whole set.

    Args:
        classes: number of classes.
        weight_decay: L2 penalty.
        tolerance: largest entry of the gradient at which the fit ends.
    """

    def __init__(self, classes: int, weight_decay: float = 1e-5, tolerance: float = TOLERANCE):
        self.classes, self.weight_decay, self.tolerance = classes, weight_decay, tolerance

    def run(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        view: SegmentationTransform,
        limit: int,
        config: InferenceConfig,
        on_batch: Callable[[Tokens, list[Tensor]], object] | None = None,
    ) -> FittedDenseProbe:
        """Fit on a dataset's training split and score on its validation split.

        Online probes and `vitlab evaluate` both call this, so that their scores agree.

        Args:
            encoder: in evaluation mode.
            data: with masks.
            view: transform of images and masks.
            limit: training images; 0 for all.
            config: device, batch size and workers.
            on_batch: called with the features and masks of each test batch.
        """

        def test_batch(features: Sequence[Tokens], masks: list[Tensor]) -> None:
            if on_batch is not None:
                on_batch(features[0], masks)

        encode = encode_by(encoder, config)
        train = data.segmentation_dataset(data.train_split, view, limit)
        test = data.segmentation_dataset(data.val_split, view)
        fitted = self.fit(encode, train, config)
        (counts,) = self.score(encode, fitted, test, config, test_batch)
        return FittedDenseProbe(fitted[0], test, counts)

    def fit(
        self,
        encode: Encode,
        images: Dataset,
        config: InferenceConfig,
    ) -> list[LinearClassifier]:
        """Fit a classifier to each feature set, by one pass over pairs of an image and a mask.

        Raises:
            InputError: there is no labeled pixel, or a feature is not finite.
        """
        classifiers = []
        for x, y in self.tables(encode, images, config):
            if not len(x):
                raise InputError(ALL_VOID, field="data")
            classifiers.append(LinearClassifier(x, y, self.weight_decay, self.tolerance))
        return classifiers

    def tables(
        self,
        encode: Encode,
        images: Dataset,
        config: InferenceConfig,
    ) -> Iterator[tuple[Float[Tensor, "s d"], Float[Tensor, "s c"]]]:
        """Yield the patches with a labeled pixel of each feature set, all of them on each rank.

        Yields:
            Features, and shares of the classes among the labeled pixels, whose sum is 1.
        """
        rows: list[list[Tensor]] = []
        shares: list[Tensor] = []
        for features, masks in _batches(encode, images, config):
            rows.append([tokens.patches.float() for tokens in features])
            shares.append(torch.stack([self.class_shares(m, features[0].grid) for m in masks]))
        # gathered by image, not by patch, so that the order is that of the set on any world size
        y = distributed.all_gather_rows(torch.cat(shares).to(rows[0][0].device)).flatten(0, 1)
        labeled = y.sum(1) > 0
        y = F.normalize(y[labeled], p=1, dim=1)
        while rows[0]:  # each is freed before the next is gathered
            own = torch.cat([batch.pop(0) for batch in rows])
            x = distributed.all_gather_rows(own).flatten(0, 1)
            del own
            yield x[labeled], y

    def class_shares(
        self, mask: UInt8[Tensor, "height width"], grid: tuple[int, int]
    ) -> Float[Tensor, "p c"]:
        """Return the pixels of each class in each patch, as shares of its area; void has none."""
        counts = class_counts(mask, grid, self.classes)[:, : self.classes]
        return counts.float() * (grid[0] * grid[1] / mask.numel())

    def score(
        self,
        encode: Encode,
        classifiers: Sequence[LinearClassifier],
        images: Dataset,
        config: InferenceConfig,
        on_batch: OnBatch | None = None,
    ) -> list[IoUCounts]:
        """Return the counts of a classifier for each feature set, by one pass over the images.

        They are the same on any number of ranks.
        """
        counts = [IoUAccumulator(self.classes, config.device) for _ in classifiers]
        for features, masks in _batches(encode, images, config):
            if on_batch is not None:
                on_batch(features, masks)
            for count, classify, tokens in zip(counts, classifiers, features, strict=True):
                for logits, mask in zip(patch_logits(classify, tokens), masks, strict=True):
                    count.update(upsample(logits[None], mask.shape)[0].argmax(0), mask)
        return [count.overlaps() for count in counts]


def encode_by(encoder: Encoder, config: InferenceConfig) -> Encode:
    """Return the one feature set of an encoder."""
    return lambda pixels: [config.encode(encoder, pixels)]


def _batches(
    encode: Encode, images: Dataset, config: InferenceConfig
) -> Iterator[tuple[Sequence[Tokens], list[Tensor]]]:
    for pixels, masks in track(sharded_loader(images, config, stack_images), "patch features"):
        features = encode(pixels)
        check_finite(*(tokens.patches for tokens in features))
        yield features, masks


def class_counts(
    mask: UInt8[Tensor, "height width"], grid: tuple[int, int], classes: int
) -> Int[Tensor, "p _"]:
    """Return the pixels of each class in each patch; the last column is void.

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
    """Return the class logits of patches as maps."""
    return classify(tokens.patches.float()).transpose(1, 2).unflatten(2, tokens.grid)


def upsample(
    logits: Float[Tensor, "b c rows columns"], size: Sequence[int]
) -> Float[Tensor, "b c height width"]:
    """Return logits of pixels by bilinear interpolation of those of patches."""
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def stack_images(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Collate images of one size, and masks of their own sizes."""
    return torch.stack([image for image, _ in pairs]), [mask for _, mask in pairs]
