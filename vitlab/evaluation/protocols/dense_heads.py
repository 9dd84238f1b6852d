"""Linear heads, and others as small, on frozen patches: mIoU."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data import SegmentationTransform, VisionDataModule
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import (
    IGNORE_INDEX,
    ImageAndMask,
    SegmentationRandomResizedCrop,  # noqa: F401, a transform that protocols name
)
from vitlab.encoders import Encoder
from vitlab.errors import InputError, check_least
from vitlab.evaluation.features import check_labels, squeeze
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Precision
from vitlab.evaluation.protocols.trained_heads import HeadScore, TrainedHeads
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.features import sharded_loader
from vitlab.probes.finiteness import FinitenessMonitor
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, pixel_loss
from vitlab.probes.metrics import IoUAccumulator
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference, resize_mask


class DenseHeads(TrainedHeads):
    """Heads on frozen patches, trained with augmentation and tested at the masks' own size.

    Every combination of features and learning rate is a head of its own, and all are trained and
    tested on the same passes of the encoder.

    Args:
        transform: of a training image and its mask, to one size for all.
        recipe: how heads are trained, and which one makes the headline.
        inference: how test images are predicted.
        head: what a head is made of.
        features: which features are read, and how they fit to patches.
        train_split: training images; "" for the dataset's own choice.
        max_val_images: the first so many test images; 0 for all.
        precision: of the encoder; heads compute in fp32.
    """

    task = "segmentation"
    score = "miou"
    chunk = 4
    features: FeatureSpec
    transform: SegmentationTransform

    def __init__(
        self,
        transform: SegmentationTransform,
        recipe: TrainingRecipe,
        inference: SegmentationInference = SegmentationInference(),  # noqa: B008, frozen
        head: HeadConfig = HeadConfig(),  # noqa: B008, frozen
        features: FeatureSpec = FeatureSpec(),  # noqa: B008, frozen
        train_split: str = "",
        max_val_images: int = 0,
        precision: Precision = "fp32",
    ):
        self.transform, self.recipe, self.inference = transform, recipe, inference
        self.head, self.features, self.precision = head, features, precision
        self.train_split, self.max_val_images = train_split, max_val_images
        check_least(self, "protocol.", {"max_val_images": 0})

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
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
        train = self.train_dataset(data, 0)  # refuses data without masks
        highest = max((value for value in data.mask_values.values() if value != 255), default=-1)
        if highest >= data.num_classes:
            raise InputError(
                f"masks of {type(data).__name__} hold class {highest}, but it names "
                f"{data.num_classes} classes; name all of them",
                field="data",
            )
        train.check()
        data.segmentation_dataset(data.val_split, self.transform).check()
        check_labels(data, self.train_split or data.train_split)
        self.recipe.holdout_split(len(train))

    def train_dataset(self, data: VisionDataModule, seed: int) -> SegmentationDataset:
        """Return training images and masks, augmented by the result's seed."""
        split = self.train_split or data.train_split
        train = data.segmentation_dataset(split, self.transform)
        data.refuse_leak(split)
        train.seed = seed
        return train

    def test_dataset(self, data: VisionDataModule, split: str) -> Dataset:
        """Return the images of a split at all scales, and their masks."""
        return self.inference.scales(data, split)

    def collate(self, examples: list[ImageAndMask]) -> tuple[Tensor, Tensor]:
        """Collate images and masks of one size."""
        images, masks = zip(*examples, strict=True)
        return torch.stack(images), torch.stack(masks)

    def targets(self, targets: Tensor) -> Tensor:
        """Return masks at the size that is learned."""
        return resize_mask(targets, self.inference.pixels)

    def labeled(self, targets: Tensor) -> bool:
        """Whether a batch has any label."""
        return bool((targets != IGNORE_INDEX).any())

    def loss(self, targets: Tensor, grid: tuple[int, int]) -> Callable[[Tensor], None]:
        """Return the gradient of the cross-entropy of pixels."""
        return pixel_loss(targets, grid)

    def test(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> dict[str, HeadScore]:
        """Test all heads on the same passes of the encoder."""
        classes = next(iter(heads.modules.values())).classify.out_features
        counts = {name: IoUAccumulator(classes, context.device) for name in heads.names}
        monitors = {name: FinitenessMonitor(context.device) for name in heads.names}

        def logits(name: str, features: Mapping[str, Tensor]) -> Tensor:
            return monitors[name].observe(heads.logits(name, features))

        loader = sharded_loader(images, replace(context.loading, batch_size=1), itemgetter(0))
        for scales, mask in context.track(loader, "testing heads", total=len(loader)):
            views = self.inference.encode(encoder, self.features, scales, context.loading)
            truth = self.inference.target(mask)
            for name in heads.names:
                predicted = self.inference.predict(views, partial(logits, name), mask.shape)
                counts[name].update(predicted, truth)
        return {
            name: HeadScore(each.overlaps(), monitors[name].finite())
            for name, each in counts.items()
        }

    def predictions(
        self,
        encoder: Encoder,
        heads: HeadGrid,
        name: str,
        images: Dataset,
        context: EvaluationContext,
    ) -> list[Tensor]:
        """Return predictions of one head for the first images, for pictures."""
        shown = []
        for index in range(min(PICTURES, len(images))):  # type: ignore[arg-type]
            scales, mask = images[index]
            views = self.inference.encode(encoder, self.features, scales, context.loading)
            predicted = self.inference.predict(views, partial(heads.logits, name), mask.shape)
            # a prediction of `pixels` is compared at that size, and shown at the mask's
            shown.append(squeeze(predicted.to("cpu", torch.uint8), *mask.shape))
        return shown
