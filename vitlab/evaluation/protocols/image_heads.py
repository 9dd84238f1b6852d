"""Linear heads on frozen image features, trained with augmentation: top-1 accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SingleCrop, VisionDataModule
from vitlab.data.batch import Example
from vitlab.data.dataset import TrainingDataset
from vitlab.encoders import Encoder
from vitlab.evaluation.protocol import EvaluationContext
from vitlab.evaluation.protocols.trained_heads import HeadScore, TrainedHeads
from vitlab.probes.features import FinitenessMonitor, sharded_loader
from vitlab.probes.layer_selection import ImageFeatureSpec, check_cls, check_layers
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, image_loss
from vitlab.probes.metrics import AccuracyCounts


@dataclass(frozen=True, kw_only=True)
class ImageHeads(TrainedHeads):
    """Linear classifiers of images, as DINO and DINOv2 train them.

    Every combination of features and learning rate is a head of its own, and all are trained and
    tested on the same passes of the encoder.

    Args:
        features: which features are read.
        transform: of training images.
        size: edge of test images, in pixels: the middle of images whose short side is 256 for 224.
    """

    task = "classification"
    score = "top1"
    chunk = 64
    features: ImageFeatureSpec = ImageFeatureSpec()  # noqa: RUF009, frozen
    head: HeadConfig = HeadConfig(norm=False)  # noqa: RUF009, frozen
    transform: SingleCrop = SingleCrop()  # noqa: RUF009, holds no state between calls
    size: int = 224

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
        super().check(encoder, data)
        check_layers(encoder, self.features.layer_selections)
        encoder.check_img_size(self.transform.size, "protocol.transform.size")
        encoder.check_img_size(self.size, "protocol.size")
        check_cls(encoder, self.size, "heads read; use a dense protocol, such as dinov2-linear")

    def train_dataset(self, data: VisionDataModule, seed: int) -> TrainingDataset:
        """Return training images, augmented by the result's seed."""
        return TrainingDataset(data.samples(data.train_split), self.transform, seed, patience=0)

    def test_dataset(self, data: VisionDataModule, split: str) -> Dataset:
        """Return the middle of the images of a split, and their classes."""
        return data.classification_dataset(split, self.size)

    def collate(self, examples: list[Example]) -> tuple[Tensor, Tensor]:
        """Collate training images and their classes."""
        images = torch.stack([example.views[0][0] for example in examples])
        return images, torch.tensor([example.label for example in examples])

    def loss(self, targets: Tensor, grid: tuple[int, int]) -> Callable[[Tensor], None]:
        """Return the gradient of the cross-entropy of images."""
        return image_loss(targets)

    def test(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> dict[str, HeadScore]:
        """Test all heads on the same passes of the encoder."""
        # a rank may have nothing to test
        rows = [torch.zeros(0, len(heads.names), dtype=torch.uint8, device=context.device)]
        monitors = {name: FinitenessMonitor(context.device) for name in heads.names}
        loader = sharded_loader(images, context.loading)
        for pixels, labels in context.track(loader, "testing heads", total=len(loader)):
            features = self.features.read(encoder, pixels, context.loading).features
            truth = labels.to(context.device)
            logits = [monitors[name].observe(heads.logits(name, features)) for name in heads.names]
            right = torch.stack([each[:, 0].argmax(1) == truth for each in logits], dim=1)
            rows.append(right.to(torch.uint8))
        table = distributed.all_gather_rows(torch.cat(rows)).bool()
        return {
            name: HeadScore(AccuracyCounts(table[:, index]), monitors[name].finite())
            for index, name in enumerate(heads.names)
        }
