"""Linear heads, and others as small, on frozen patches: mIoU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from vitlab.data import SegmentationTransform, VisionDataModule
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import (
    IGNORE_INDEX,
    SegmentationRandomResizedCrop,  # noqa: F401, a view that protocols name
)
from vitlab.encoders import Encoder
from vitlab.evaluation.features import squeeze
from vitlab.evaluation.ignore_index import require_labels, require_scored_pixels
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision
from vitlab.evaluation.protocols.trained_heads import (
    Tested,
    TrainedHeads,
    head_of_headline,
    outcome_of,
)
from vitlab.probes.feature_maps import FeatureSpec
from vitlab.probes.features import sharded_loader
from vitlab.probes.finiteness import FinitenessMonitor
from vitlab.probes.head_batches import (
    gather_batch,
    holdout_split,
    training_loader,
)
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, pixel_loss
from vitlab.probes.metrics import IoUAccumulator, IoUCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference, resize_mask

PICTURES = 4  # test images whose predictions are kept


class DenseHeads(TrainedHeads):
    """Heads on frozen patches, trained with augmentation and tested at the masks' own size.

    Every combination of features (`inputs`) and learning rate is a head of its own, and all are
    trained and tested on the same passes of the encoder.

    Args:
        transform: what a training image and its mask become; all of one size.
        recipe: how heads are trained, and which one makes the headline.
        test: how images are predicted.
        layers: what a head is made of.
        inputs: which features are read, and how they fit to patches.
        split: training images; "" for the dataset's own choice.
        images: the first so many test images; 0 for all.
        precision: of the encoder; heads compute in fp32.
    """

    task = "segmentation"
    chunk = 4

    def __init__(
        self,
        transform: SegmentationTransform,
        recipe: TrainingRecipe,
        test: SegmentationInference = SegmentationInference(),  # noqa: B008, frozen
        layers: HeadConfig = HeadConfig(),  # noqa: B008, frozen
        inputs: FeatureSpec = FeatureSpec(),  # noqa: B008, frozen
        split: str = "",
        images: int = 0,
        precision: Precision = "fp32",
    ):
        if images < 0:
            raise ValueError(f"images {images} is negative; use 0 for all, or a count")
        self.transform, self.recipe, self.test = transform, recipe, test
        self.layers, self.inputs = layers, inputs
        self.split, self.images, self.precision = split, images, precision

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        size = getattr(self.transform, "size", 0)
        if not size:
            raise ValueError(
                f"{type(self.transform).__name__} leaves images at their own sizes, which cannot "
                "share a batch; train on SegmentationCrop, SegmentationRandomResizedCrop or "
                "SegmentationSquare"
            )
        self.inputs.check(encoder, size, "transform.size")
        self.inputs.check(encoder, self.test.edge(), "test.window")
        highest = max((value for value in data.mask_values.values() if value != 255), default=-1)
        train = self._train(data, 0)  # refuses data without masks
        if highest >= data.num_classes:
            raise ValueError(
                f"masks of {type(data).__name__} hold class {highest}, but it names "
                f"{data.num_classes} classes; name all of them"
            )
        train.check()
        data.segmentation_dataset(data.val_split, self.transform).check()
        for name in (self.split or data.train_split, data.val_split):
            require_labels(data, name)
        holdout_split(len(train), self.recipe.select == "held out")

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Train all heads, choose one as the recipe says, and test all of them."""
        reported = self.tested(data, data.val_split)
        if self.images:
            reported = Subset(reported, range(min(self.images, len(data.samples(data.val_split)))))
        fitting = self.fit(encoder, data, self.split or data.train_split, reported, context)
        return replace(self._outcome(encoder, fitting, reported, data, context), train=self.split)

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant of the features, by its name."""
        return self.inputs.widths(encoder)

    def tested(self, data: VisionDataModule, split: str) -> Dataset:
        """The images of a split at all scales, and their masks."""
        return self.test.scales(data, split)

    def _train(self, data: VisionDataModule, seed: int) -> SegmentationDataset:
        train = data.segmentation_dataset(self.split or data.train_split, self.transform)
        data.refuse_leak(self.split or data.train_split)
        train.seed = seed  # the result's seed, not the dataset's, decides the augmentation
        return train

    def batches(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        places: StepSampler,
        context: EvaluationContext,
    ) -> Iterator[HeadBatch]:
        """Yield features of augmented images, and what they are to become."""
        train = self._train(data, context.seed)
        labeled = False
        loader = training_loader(train, places, context.loading.num_workers, stack)
        for images, masks in context.track(loader, "training heads", total=len(places)):
            maps = [
                self.inputs.read(encoder, some, context.loading)
                for some in images.split(places.chunk)
            ]
            features = {
                name: gather_batch(torch.cat([each.features[name] for each in maps]), places)
                for name in maps[0].features
            }
            truth = gather_batch(resize_mask(masks.to(context.device), self.test.pixels), places)
            labeled = labeled or bool(
                (truth != IGNORE_INDEX).any()
            )  # once true, nobody waits for it
            yield HeadBatch(features, pixel_loss(truth, maps[0].grid), labeled)

    def examine(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> dict[str, Tested[IoUCounts]]:
        """Test all heads on the same passes of the encoder."""
        classes = next(iter(heads.modules.values())).classify.out_features
        counting = {name: IoUAccumulator(classes, context.device) for name in heads.names}
        watches = {name: FinitenessMonitor(context.device) for name in heads.names}
        loader = sharded_loader(images, replace(context.loading, batch_size=1), itemgetter(0))
        for scales, mask in context.track(loader, "testing heads", total=len(loader)):
            views = self.test.encode(encoder, self.inputs, scales, context.loading)
            truth = self.test.target(mask)
            for name in heads.names:
                predicted = self.test.predict(
                    views, partial(_watched, heads, name, watches[name]), mask.shape
                )
                counting[name].update(predicted, truth)
        return {
            name: Tested(each.overlaps(), watches[name].finite()) for name, each in counting.items()
        }

    def _outcome(
        self,
        encoder: Encoder,
        fitting: HeadTraining,
        images: Dataset,
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> Outcome:
        found = self.examine(encoder, fitting.heads, images, context)
        require_scored_pixels(next(iter(found.values())).evidence, data)
        head = head_of_headline(found, fitting)
        shown = self._predictions(encoder, fitting.heads, head, images, context)
        return replace(outcome_of("miou", head, found, fitting), predictions=shown)

    def _predictions(
        self,
        encoder: Encoder,
        heads: HeadGrid,
        head: str,
        images: Dataset,
        context: EvaluationContext,
    ) -> list[Tensor]:
        shown = []
        for index in range(min(PICTURES, len(images))):  # type: ignore[arg-type]
            scales, mask = images[index]
            views = self.test.encode(encoder, self.inputs, scales, context.loading)
            predicted = self.test.predict(views, partial(heads.logits, head), mask.shape)
            # a prediction of `pixels` is compared at that size, and shown at the mask's
            shown.append(squeeze(predicted.to("cpu", torch.uint8), *mask.shape))
        return shown


def _watched(
    heads: HeadGrid, name: str, watch: FinitenessMonitor, features: dict[str, Tensor]
) -> Tensor:
    return watch.observe(heads.logits(name, features))


def stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Collate images and masks of one size."""
    return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])
