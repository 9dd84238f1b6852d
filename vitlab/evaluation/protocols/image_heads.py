"""Linear heads on frozen image features, trained with augmentation: top-1 accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SingleCrop, VisionDataModule
from vitlab.data.batch import Example
from vitlab.data.dataset import TrainingDataset
from vitlab.encoders import Encoder
from vitlab.evaluation.protocols.trained_heads import HeadLogits, HeadRun, TrainedHeads
from vitlab.probes.features import sharded_loader
from vitlab.probes.layer_selection import ImageFeatureSpec, check_cls, check_layers
from vitlab.probes.linear_heads import HeadConfig, image_loss
from vitlab.probes.metrics import AccuracyCounts
from vitlab.progress import track


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
    transform: SingleCrop
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

    def count(
        self, run: HeadRun, logits: Mapping[str, HeadLogits], images: Dataset
    ) -> dict[str, AccuracyCounts]:
        """Count the predictions of all heads on the same passes of the encoder."""
        # a rank may have nothing to test
        rows = [torch.zeros(0, len(logits), dtype=torch.uint8, device=run.context.device)]
        loader = sharded_loader(images, run.context.loading)
        for pixels, labels in track(loader, "testing heads"):
            features = self.features.read(run.encoder, pixels, run.context.loading).features
            truth = labels.to(run.context.device)
            right = [each(features)[:, 0].argmax(1) == truth for each in logits.values()]
            rows.append(torch.stack(right, dim=1).to(torch.uint8))
        table = distributed.all_gather_rows(torch.cat(rows)).bool()
        return {name: AccuracyCounts(table[:, index]) for index, name in enumerate(logits)}
