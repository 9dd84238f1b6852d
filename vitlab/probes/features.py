"""Frozen features, and what a probe is: it turns two tables of them into numbers.

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
    """Scores frozen features; a pure function, the same on any number of ranks."""

    @abstractmethod
    def score(self, train: Features, test: Features) -> dict[str, float]:
        """Return scores in percent, by name."""


@dataclass(frozen=True)
class InferenceConfig:
    """How images reach a probe.

    Attributes:
        device: where the encoder is.
        batch_size: images of one forward pass.
        num_workers: processes that decode.
        precision: makes the context of a forward pass, such as autocast; the probes themselves
            compute in fp32.
    """

    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    precision: Callable[[], AbstractContextManager] = nullcontext

    def encode(self, encoder: Encoder, images: Images) -> Tokens:
        """Return the features of images, wherever they are now; 8-bit ones are normalized first."""
        images = images.to(self.device)
        with self.precision():
            return encoder(normalize(images) if images.dtype == torch.uint8 else images)


def image_features(encoder: Encoder, images: Dataset, loading: InferenceConfig) -> Features:
    """Return the [CLS] feature of every image, in order, the whole table on each rank.

    Args:
        encoder: an encoder in evaluation mode.
        images: pairs of a (3, height, width) image and a class index.
        loading: device, batch and workers.
    """
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, label in sharded_loader(images, loading):
        rows.append(loading.encode(encoder, pixels).cls.float())
        labels.append(label)
    x = distributed.all_gather_rows(torch.cat(rows))
    return Features(x, distributed.all_gather_rows(torch.cat(labels).to(loading.device)))


def sharded_loader(images: Dataset, loading: InferenceConfig, collate=None) -> DataLoader:
    """Return a loader of this rank's images: every world-th, so that none is seen twice."""
    mine = Subset(images, range(distributed.rank(), len(images), distributed.world_size()))  # type: ignore[arg-type]
    return DataLoader(
        mine,
        loading.batch_size,
        num_workers=loading.num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # a loader draws a seed; not from the run's random stream
    )
