"""Linear heads on frozen image features, trained with augmentation: top-1 accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SingleCrop, VisionDataModule, normalize
from vitlab.data.dataset import Example, TrainingDataset
from vitlab.encoders import Encoder
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision
from vitlab.evaluation.protocols.trained_heads import (
    Tested,
    TrainedHeads,
    head_of_headline,
    outcome_of,
)
from vitlab.probes.features import sharded_loader
from vitlab.probes.finiteness import FinitenessMonitor, check_finite
from vitlab.probes.head_batches import (
    gather_batch,
    holdout_split,
    training_loader,
)
from vitlab.probes.head_training import HeadBatch
from vitlab.probes.layer_selection import LayerSelection, check_cls, check_layers, extract_layers
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, image_loss
from vitlab.probes.metrics import AccuracyCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe


@dataclass(frozen=True)
class ImageInputs:
    """Variants of image features: each reading with each choice of the patches' mean.

    Args:
        readings: layers whose [CLS] are concatenated, and whether they pass the final norm.
        mean: for each variant whether the mean patch of the reading's last layer stands behind.
    """

    readings: tuple[LayerSelection, ...] = (LayerSelection(),)
    mean: tuple[bool, ...] = (False,)

    def __post_init__(self) -> None:
        """Refuse a choice that is empty or made twice."""
        for name, value in [("readings", self.readings), ("mean", self.mean)]:
            if not value or len(set(value)) < len(value):
                raise ValueError(f"{name} {value}: name at least one, and none twice")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(reading, mean): encoder.embed_dim * (len(reading.layers) + mean)
            for reading in self.readings
            for mean in self.mean
        }

    def read(
        self, encoder: Encoder, images: Tensor, context: EvaluationContext
    ) -> dict[str, Float[Tensor, "b 1 _"]]:
        """Return all variants of images in 8 bits, by name, as a single patch, in fp32.

        Raises:
            ValueError: features that are not finite.
        """
        with torch.no_grad(), context.loading.precision():
            found = extract_layers(encoder, normalize(images.to(context.device)), self.readings)
        features = {}
        for reading, tokens in zip(self.readings, found, strict=True):
            last = tokens.patches[..., -encoder.embed_dim :].float().mean(1)
            check_finite(tokens.cls, last)
            for mean in self.mean:
                parts = [tokens.cls.float(), last] if mean else [tokens.cls.float()]
                features[self._name(reading, mean)] = torch.cat(parts, dim=-1)[:, None]
        return features

    def _name(self, reading: LayerSelection, mean: bool) -> str:
        return f"{reading.name}{' and mean patch' if mean else ''}"


class ImageHeads(TrainedHeads):
    """Linear classifiers of images, as DINO and DINOv2 train them.

    Every combination of features (`inputs`) and learning rate is a head of its own, and all are
    trained and tested on the same passes of the encoder.

    Args:
        recipe: how heads are trained, and which one makes the headline.
        inputs: which features are read.
        layers: what a head is made of.
        transform: what a training image becomes.
        size: edge of test images, in pixels: the middle of images whose short side is 256 for 224.
        precision: of the encoder; heads compute in fp32.
    """

    task = "classification"
    chunk = 64

    def __init__(
        self,
        recipe: TrainingRecipe,
        inputs: ImageInputs = ImageInputs(),
        layers: HeadConfig = HeadConfig(norm=False),  # noqa: B008, frozen
        transform: SingleCrop = SingleCrop(),  # noqa: B008, holds no state between calls
        size: int = 224,
        precision: Precision = "fp32",
    ):
        self.recipe, self.inputs, self.layers = recipe, inputs, layers
        self.transform, self.size, self.precision = transform, size, precision

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        check_layers(encoder, self.inputs.readings)
        encoder.check_img_size(self.transform.size, "transform.size")
        encoder.check_img_size(self.size, "size")
        check_cls(encoder, self.size, "heads read; use a dense protocol, such as dinov2-linear")
        for name in (data.train_split, data.val_split):
            data.classification_dataset(name, self.size)  # refuses data without labels
            labels = data.samples(name).labels
            if labels is not None and labels.max() >= data.num_classes:
                raise ValueError(
                    f"split {name!r} of {type(data).__name__} holds class {labels.max()}, but it "
                    f"names {data.num_classes} classes; name all of them"
                )
        holdout_split(len(data.samples(data.train_split)), self.recipe.select == "held out")

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Train all heads, choose one as the recipe says, and test all of them."""
        reported = self.tested(data, data.val_split)
        fitting = self.fit(encoder, data, data.train_split, reported, context)
        found = self.examine(encoder, fitting.heads, reported, context)
        return outcome_of("top1", head_of_headline(found, fitting), found, fitting)

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant of the features, by its name."""
        return self.inputs.widths(encoder)

    def tested(self, data: VisionDataModule, split: str) -> Dataset:
        """The middle of the images of a split, and their classes."""
        return data.classification_dataset(split, self.size)

    def batches(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        places: StepSampler,
        context: EvaluationContext,
    ) -> Iterator[HeadBatch]:
        """Yield features of augmented images, and their classes."""
        train = TrainingDataset(
            data.samples(data.train_split), self.transform, context.seed, patience=0
        )
        loader = training_loader(train, places, context.loading.num_workers, stack)
        for images, labels in context.track(loader, "training heads", total=len(places)):
            read = [self.inputs.read(encoder, some, context) for some in images.split(places.chunk)]
            features = {
                name: gather_batch(torch.cat([each[name] for each in read]), places)
                for name in read[0]
            }
            yield HeadBatch(features, image_loss(gather_batch(labels.to(context.device), places)))

    def examine(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> dict[str, Tested[AccuracyCounts]]:
        """Test all heads on the same passes of the encoder."""
        # a rank may have nothing to test
        rows = [torch.zeros(0, len(heads.names), dtype=torch.uint8, device=context.device)]
        watches = {name: FinitenessMonitor(context.device) for name in heads.names}
        loader = sharded_loader(images, context.loading)
        for pixels, labels in context.track(loader, "testing heads", total=len(loader)):
            features = self.inputs.read(encoder, pixels, context)
            truth = labels.to(context.device)
            logits = [watches[name].observe(heads.logits(name, features)) for name in heads.names]
            right = torch.stack([each[:, 0].argmax(1) == truth for each in logits], dim=1)
            rows.append(right.to(torch.uint8))
        table = distributed.all_gather_rows(torch.cat(rows)).bool()
        return {
            name: Tested(AccuracyCounts(table[:, index]), watches[name].finite())
            for index, name in enumerate(heads.names)
        }


def stack(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Collate training images and their classes."""
    images = torch.stack([example.views[0][0] for example in examples])
    return images, torch.tensor([example.label for example in examples])
