"""Linear heads, and others as small, on frozen patches: mIoU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data import SegmentationTransform, VisionDataModule
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import (
    ImageAndMask,
    SegmentationRandomResizedCrop,  # noqa: F401, a transform that protocols name
)
from vitlab.encoders import Encoder
from vitlab.errors import InputError, check_least
from vitlab.evaluation.protocol import PICTURES
from vitlab.evaluation.protocols.trained_heads import HeadLogits, HeadRun, TrainedHeads
from vitlab.probes.features import sharded_loader
from vitlab.probes.layer_selection import FeatureSpec
from vitlab.probes.linear_heads import pixel_loss
from vitlab.probes.metrics import IoUAccumulator, IoUCounts
from vitlab.probes.segmentation_inference import SegmentationInference, resize_mask
from vitlab.progress import track


@dataclass(frozen=True, kw_only=True)
class DenseHeads(TrainedHeads):
    """Heads on frozen patches, trained with augmentation and tested at the masks' own size.

    Every combination of features and learning rate is a head of its own, and all are trained and
    tested on the same passes of the encoder.

    Args:
        transform: of a training image and its mask, to one size for all.
        inference: how test images are predicted.
        features: which features are read, and how they fit to patches.
        train_split: training images; "" for the dataset's own choice.
        max_val_images: the first so many test images; 0 for all.
    """

    task = "segmentation"
    score = "miou"
    chunk = 4
    transform: SegmentationTransform
    inference: SegmentationInference = SegmentationInference()  # noqa: RUF009, frozen
    features: FeatureSpec = FeatureSpec()  # noqa: RUF009, frozen
    train_split: str = ""
    max_val_images: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_least(self, "protocol.", {"max_val_images": 0})

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
        super().check(encoder, data)
        size = getattr(self.transform, "size", 0)
        if not size:
            raise InputError(
                f"{type(self.transform).__name__} leaves images at their own sizes, which cannot "
                "share a batch; train on SegmentationCrop, SegmentationRandomResizedCrop or "
                "SegmentationSquare",
                field="protocol.transform",
            )
        self.features.check(encoder, size, "protocol.transform.size")
        self.features.check(encoder, self.inference.edge(), "protocol.inference.window")

    def train_dataset(self, data: VisionDataModule, seed: int) -> SegmentationDataset:
        """Return training images, augmented by the result's seed."""
        split = self.train_split or data.train_split
        train = data.segmentation_dataset(split, self.transform)
        data.refuse_leak(split)
        train.seed = seed
        return train

    def test_dataset(self, data: VisionDataModule, split: str) -> Dataset:
        """Return the images of a split at all scales, and their masks."""
        return self.inference.scales(data, split)

    def collate(self, examples: list[ImageAndMask]) -> tuple[Tensor, Tensor]:
        """Collate images of one size, and masks at the size that is learned."""
        images, masks = zip(*examples, strict=True)
        return torch.stack(images), resize_mask(torch.stack(masks), self.inference.pixels)

    def loss(self, targets: Tensor, grid: tuple[int, int]) -> Callable[[Tensor], None]:
        """Return the gradient of the cross-entropy of pixels."""
        return pixel_loss(targets, grid)

    def count(
        self, run: HeadRun, logits: Mapping[str, HeadLogits], images: Dataset
    ) -> dict[str, IoUCounts]:
        """Count the predictions of all heads on the same passes of the encoder."""
        counts = {name: IoUAccumulator(run.data.num_classes, run.context.device) for name in logits}
        loader = sharded_loader(images, replace(run.context.loading, batch_size=1), itemgetter(0))
        for scales, mask in track(loader, "testing heads"):
            views = self.inference.encode(run.encoder, self.features, scales, run.context.loading)
            truth = self.inference.target(mask)
            for name, head in logits.items():
                counts[name].update(self.inference.predict(views, head, mask.shape), truth)
        return {name: each.overlaps() for name, each in counts.items()}

    def predictions(self, run: HeadRun, logits: HeadLogits, images: Dataset) -> list[Tensor]:
        """Return predictions of one head for the first images, for pictures."""
        shown = []
        for index in range(min(PICTURES, len(images))):  # type: ignore[arg-type]
            scales, mask = images[index]
            views = self.inference.encode(run.encoder, self.features, scales, run.context.loading)
            shown.append(self.inference.predict(views, logits, mask.shape).byte().cpu())
        return shown


@dataclass(frozen=True, kw_only=True)
class MMSegHeads(DenseHeads):
    """Heads with the loss of mmsegmentation, whose mean has all pixels, void ones with loss 0.

    Args:
        avg_non_ignore: True averages over pixels with a label, as `DenseHeads`; name and default
            are those of mmsegmentation's CrossEntropyLoss.
    """

    avg_non_ignore: bool = False

    def loss(self, targets: Tensor, grid: tuple[int, int]) -> Callable[[Tensor], None]:
        """Return the gradient of the cross-entropy of pixels."""
        return pixel_loss(targets, grid, self.avg_non_ignore)
