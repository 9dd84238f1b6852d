"""Linear heads on frozen image features, trained with augmentation: top-1 accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SingleCrop, VisionDataModule, normalize
from vitlab.data.batch import Example
from vitlab.data.dataset import TrainingDataset
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.protocol import EvaluationContext, Precision
from vitlab.evaluation.protocols.image_knn import check_classes
from vitlab.evaluation.protocols.trained_heads import HeadScore, TrainedHeads
from vitlab.probes import InferenceConfig
from vitlab.probes.features import sharded_loader
from vitlab.probes.finiteness import FinitenessMonitor, check_finite
from vitlab.probes.head_batches import gather_batch, holdout_split, training_loader
from vitlab.probes.head_training import HeadBatch
from vitlab.probes.layer_selection import LayerSelection, check_cls, check_layers, extract_layers
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, image_loss
from vitlab.probes.metrics import AccuracyCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe


@dataclass(frozen=True)
class ImageFeatureSpec:
    """Variants of image features: each selection with each choice of the patches' mean.

    Args:
        layer_selections: layers whose [CLS] are concatenated, and whether they pass the final norm.
        mean: for each variant whether the mean patch of the selection's last layer is appended.
    """

    layer_selections: tuple[LayerSelection, ...] = (LayerSelection(),)
    mean: tuple[bool, ...] = (False,)

    def __post_init__(self) -> None:
        """Refuse a choice that is empty or made twice."""
        for name, value in [("layer_selections", self.layer_selections), ("mean", self.mean)]:
            if not value or len(set(value)) < len(value):
                raise InputError(
                    f"{name} {value}: name at least one, and none twice",
                    field=f"protocol.features.{name}",
                )

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(selection, mean): encoder.embed_dim * (len(selection.layers) + mean)
            for selection in self.layer_selections
            for mean in self.mean
        }

    def read(
        self, encoder: Encoder, images: Tensor, loading: InferenceConfig
    ) -> dict[str, Float[Tensor, "b 1 _"]]:
        """Return all variants of images in 8 bits, by name, as a single patch, in fp32.

        Raises:
            InputError: features that are not finite.
        """
        with torch.no_grad(), loading.precision():
            found = extract_layers(
                encoder, normalize(images.to(loading.device)), self.layer_selections
            )
        features = {}
        for selection, tokens in zip(self.layer_selections, found, strict=True):
            last = tokens.patches[..., -encoder.embed_dim :].float().mean(1)
            check_finite(tokens.cls, last)
            for mean in self.mean:
                parts = [tokens.cls.float(), last] if mean else [tokens.cls.float()]
                features[self._name(selection, mean)] = torch.cat(parts, dim=-1)[:, None]
        return features

    def _name(self, selection: LayerSelection, mean: bool) -> str:
        return f"{selection.name}{' and mean patch' if mean else ''}"


class ImageHeads(TrainedHeads):
    """Linear classifiers of images, as DINO and DINOv2 train them.

    Every combination of features and learning rate is a head of its own, and all are trained and
    tested on the same passes of the encoder.

    Args:
        recipe: how heads are trained, and which one makes the headline.
        features: which features are read.
        head: what a head is made of.
        transform: of training images.
        size: edge of test images, in pixels: the middle of images whose short side is 256 for 224.
        precision: of the encoder; heads compute in fp32.
    """

    task = "classification"
    score = "top1"
    chunk = 64
    transform: SingleCrop

    def __init__(
        self,
        recipe: TrainingRecipe,
        features: ImageFeatureSpec = ImageFeatureSpec(),
        head: HeadConfig = HeadConfig(norm=False),  # noqa: B008, frozen
        transform: SingleCrop = SingleCrop(),  # noqa: B008, holds no state between calls
        size: int = 224,
        precision: Precision = "fp32",
    ):
        self.recipe, self.features, self.head = recipe, features, head
        self.transform, self.size, self.precision = transform, size, precision

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            InputError: which, and what fits.
        """
        check_layers(encoder, self.features.layer_selections)
        encoder.check_img_size(self.transform.size, "protocol.transform.size")
        encoder.check_img_size(self.size, "protocol.size")
        check_cls(encoder, self.size, "heads read; use a dense protocol, such as dinov2-linear")
        for split in (data.train_split, data.val_split):
            check_classes(data, split, self.size)
        holdout_split(len(data.samples(data.train_split)), self.recipe.select == "held out")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant of the features, by its name."""
        return self.features.widths(encoder)

    def test_dataset(self, data: VisionDataModule, split: str) -> Dataset:
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
        samples = data.samples(data.train_split)
        train = TrainingDataset(samples, self.transform, context.seed, patience=0)
        loader = training_loader(train, places, context.loading.num_workers, stack)
        for images, labels in context.track(loader, "training heads", total=len(places)):
            read = [
                self.features.read(encoder, chunk, context.loading)
                for chunk in images.split(places.chunk)
            ]
            features = {
                name: gather_batch(torch.cat([each[name] for each in read]), places)
                for name in read[0]
            }
            truth = gather_batch(labels.to(context.device), places)
            yield HeadBatch(features, image_loss(truth))

    def test(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> dict[str, HeadScore]:
        """Test all heads on the same passes of the encoder."""
        # a rank may have nothing to test
        rows = [torch.zeros(0, len(heads.names), dtype=torch.uint8, device=context.device)]
        monitors = {name: FinitenessMonitor(context.device) for name in heads.names}
        loader = sharded_loader(images, context.loading)
        for pixels, labels in context.track(loader, "testing heads", total=len(loader)):
            features = self.features.read(encoder, pixels, context.loading)
            truth = labels.to(context.device)
            logits = [monitors[name].observe(heads.logits(name, features)) for name in heads.names]
            right = torch.stack([each[:, 0].argmax(1) == truth for each in logits], dim=1)
            rows.append(right.to(torch.uint8))
        table = distributed.all_gather_rows(torch.cat(rows)).bool()
        return {
            name: HeadScore(AccuracyCounts(table[:, index]), monitors[name].finite())
            for index, name in enumerate(heads.names)
        }


def stack(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Collate training images and their classes."""
    images = torch.stack([example.views[0][0] for example in examples])
    return images, torch.tensor([example.label for example in examples])
