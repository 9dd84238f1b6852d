"""Frozen image features, and the interface of probes: fit, predict, score.

Axis letters: s rows, d width, c classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vitlab import distributed
from vitlab.data import normalize
from vitlab.encoders import Encoder, Tokens

Images = Float[Tensor, "b 3 height width"] | UInt8[Tensor, "b 3 height width"]


@dataclass(frozen=True)
class Features:
    """A table of frozen image features.

    Attributes:
        x: one row for each image.
        y: its class index.
    """

    x: Float[Tensor, "s d"]
    y: Int[Tensor, " s"]


class Probe(ABC):
    """A classifier of frozen image features; the same on any number of ranks."""

    @abstractmethod
    def fit(self, train: Features, num_classes: int) -> "Probe":
        """Learn from labeled features."""

    @abstractmethod
    def predict(self, x: Float[Tensor, "s d"]) -> Int[Tensor, " s"]:
        """Return the class of each row."""

    @abstractmethod
    def score(self, test: Features) -> dict[str, float]:
        """Return scores in percent, by name."""

    def fit_score(self, train: Features, test: Features) -> dict[str, float]:
        """Fit on one table and score on another, with the classes of both."""
        num_classes = int(max(train.y.max(), test.y.max())) + 1
        return self.fit(train, num_classes).score(test)


@dataclass(frozen=True)
class InferenceConfig:
    """Device, batches and precision of forward passes.

    Attributes:
        device: of the encoder.
        batch_size: images of one forward pass.
        num_workers: processes that decode.
        precision: makes the context of a forward pass, such as autocast; probes themselves compute
            in fp32.
    """

    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    precision: Callable[[], AbstractContextManager] = nullcontext

    def encode(self, encoder: Encoder, images: Images) -> Tokens:
        """Return the features of images on any device; 8-bit ones are normalized first."""
        images = images.to(self.device)
        with self.precision():
            return encoder(normalize(images) if images.dtype == torch.uint8 else images)


def image_features(encoder: Encoder, images: Dataset, config: InferenceConfig) -> Features:
    """Return the [CLS] feature of every image, in order, the whole table on each rank.

    Args:
        encoder: in evaluation mode.
        images: pairs of a (3, height, width) image and a class index.
        config: device, batch size and workers.
    """
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, label in sharded_loader(images, config):
        rows.append(config.encode(encoder, pixels).cls.float())
        labels.append(label)
    x = distributed.all_gather_rows(torch.cat(rows))
    return Features(x, distributed.all_gather_rows(torch.cat(labels).to(config.device)))


def sharded_loader(
    images: Dataset, config: InferenceConfig, collate: Callable | None = None
) -> DataLoader:
    """Return a loader of this rank's images: every world_size-th, so that none is read twice."""
    shard = range(distributed.rank(), len(images), distributed.world_size())  # type: ignore[arg-type]
    return DataLoader(
        Subset(images, shard),
        config.batch_size,
        num_workers=config.num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # a loader draws a seed; not from the run's random stream
    )
