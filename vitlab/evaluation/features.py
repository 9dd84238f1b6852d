"""Frozen features of whole splits, in the order of their images and the same on each rank.

Axis letters: n images, p patches, d width.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SegmentationSquare, VisionDataModule, normalize
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import resize_nearest
from vitlab.encoders import Encoder, Tokens
from vitlab.evaluation.cache import Cache, Tables
from vitlab.evaluation.fingerprint import (
    fingerprint,
    fingerprint_of_data,
    sampled_contents,
    unknown,
)
from vitlab.evaluation.protocol import EvaluationContext, Precision
from vitlab.probes import Features
from vitlab.probes.features import InferenceConfig, sharded_loader
from vitlab.probes.layer_selection import LayerSelection, extract_layers


@dataclass(frozen=True)
class Source:
    """Which features of which images; all that a cached table depends on.

    Attributes:
        encoder: in evaluation mode.
        data: with the labels or masks that are asked for.
        reading: of the encoder's states.
        size: pixels of the image edge.
        precision: of the forward pass.
    """

    encoder: Encoder
    data: VisionDataModule
    reading: LayerSelection
    size: int
    precision: Precision = "fp32"

    def key(self, split: str, what: str) -> dict[str, str]:
        """Return everything that a table of a split depends on, by name."""
        return {
            "what": what,
            "weights": fingerprint(self.encoder),
            "data": fingerprint_of_data(self.data, split),
            "files": sampled_contents(self.data, split),
            "reading": self.reading.name,
            "size": str(self.size),
            "precision": self.precision,
        }

    def cache(self, context: EvaluationContext) -> Cache:
        """Return where tables are kept: nowhere, if two encoders could not be told apart."""
        parts = unknown(self.encoder) if context.cache is not None else []
        if not parts:
            return Cache(context.cache)
        warnings.warn(
            f"features of {type(self.encoder).__name__} are not kept: {', '.join(parts[:3])} may "
            "change them and cannot be hashed; keep all that they depend on in tensors, plain "
            "attributes or a dict `config`",
            stacklevel=4,
        )
        return Cache(None)

    def encode(self, images: Tensor, loading: InferenceConfig) -> Tokens:
        """Return the features of 8-bit images."""
        with loading.precision():
            return extract_layers(
                self.encoder, normalize(images.to(loading.device)), [self.reading]
            )[0]


@dataclass(frozen=True)
class PatchTable:
    """The patches of a split whose images were squeezed into squares.

    Attributes:
        x: patch features; they may lie in a file, which is not to be written to.
        masks: class of each pixel of the squares, 255 where there is none.
        grid: rows and columns of patches.
    """

    x: Float[Tensor, "n p d"]
    masks: UInt8[Tensor, "n size size"]
    grid: tuple[int, int]


@contextmanager
def image_table(source: Source, split: str, context: EvaluationContext) -> Iterator[Features]:
    """Give [CLS] and label of every image of a split, from DINO's center crop."""

    def make() -> Tables:
        check_ranks(source.data, split)
        images = source.data.classification_dataset(split, source.size)

        def rows(pixels: Tensor, labels: Tensor) -> Tables:
            cls = source.encode(pixels, context.loading).cls.float().cpu()
            return {"x": cls, "y": labels}

        return _collect(images, rows, f"features of {split}", context)

    key = source.key(split, f"[CLS] of center crops, share {7 / 8}")
    with source.cache(context).table(key, make) as tables:
        yield Features(tables["x"], tables["y"])


@contextmanager
def patch_table(source: Source, split: str, context: EvaluationContext) -> Iterator[PatchTable]:
    """Give the patches of every image of a split, squeezed into a square, and its mask."""

    def make() -> Tables:
        check_ranks(source.data, split)

        def rows(pixels: Tensor, masks: Tensor) -> Tables:
            patches = source.encode(pixels, context.loading).patches.float().cpu()
            return {"x": patches, "masks": masks}

        return _collect(_Squares(source, split), rows, f"features of {split}", context)

    edge = source.size // source.encoder.patch_size
    with source.cache(context).table(source.key(split, "patches of squares"), make) as tables:
        yield PatchTable(tables["x"], tables["masks"], (edge, edge))


class _Squares(Dataset[tuple[Tensor, Tensor]]):
    """Images squeezed into squares, bicubic, beside masks squeezed alike, nearest."""

    def __init__(self, source: Source, split: str):
        self.images: SegmentationDataset = source.data.segmentation_dataset(
            split, SegmentationSquare(source.size)
        )
        self.size = source.size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.images[index]
        return image, squeeze(mask, self.size)


def squeeze(
    mask: UInt8[Tensor, "height width"], rows: int, columns: int = 0
) -> UInt8[Tensor, "rows _"]:
    """Return a mask at another size, by the nearest pixel; a square if one side is given."""
    squeezed = resize_nearest(mask.cpu().numpy(), rows, columns or rows)
    return torch.from_numpy(np.ascontiguousarray(squeezed))


def check_ranks(data: VisionDataModule, split: str) -> None:
    """Refuse more processes than images: one would have nothing to do.

    Raises:
        ValueError: how many there are.
    """
    images = len(data.samples(split))
    if images < distributed.world_size():
        raise ValueError(
            f"split {split!r} has {images} images for {distributed.world_size()} processes; use "
            f"{images} devices or fewer"
        )


def at_own_sizes(
    predictions: list[UInt8[Tensor, "rows columns"]], data: VisionDataModule
) -> list[UInt8[Tensor, "_ _"]]:
    """Return predictions of the first test images at the sizes of their masks, for pictures."""
    images = data.segmentation_dataset(data.val_split, SegmentationSquare(16))
    return [squeeze(each, *images[index][1].shape) for index, each in enumerate(predictions)]


def _collect(
    images: Dataset, rows: Callable[[Tensor, Tensor], Tables], what: str, context: EvaluationContext
) -> Tables:
    loader = sharded_loader(images, context.loading)
    found = [rows(*batch) for batch in context.track(loader, what, total=len(loader))]
    # gathered by image, so that the order is that of the set on any number of ranks
    device = context.device if distributed.world_size() > 1 else torch.device("cpu")
    return {
        name: distributed.all_gather_rows(
            torch.cat([part[name] for part in found]).to(device)
        ).cpu()
        for name in found[0]
    }
