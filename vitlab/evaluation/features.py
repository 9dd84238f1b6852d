"""Frozen features of whole splits, in the order of their images and the same on each rank.

Axis letters: n images, p patches, d width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import SegmentationSquare, VisionDataModule, normalize
from vitlab.data.samples import spread
from vitlab.data.transforms import IGNORE_INDEX, resize_nearest
from vitlab.encoders import Encoder, Tokens
from vitlab.errors import InputError
from vitlab.evaluation.cache import Cache, Tables
from vitlab.evaluation.fingerprint import key_of
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Precision
from vitlab.evaluation.square_transforms import SquareResize
from vitlab.probes import Features
from vitlab.probes.features import InferenceConfig, sharded_loader
from vitlab.probes.layer_selection import LayerSelection, extract_layers


@dataclass(frozen=True)
class Source:
    """Which features of which images; all that a cached table depends on.

    Attributes:
        encoder: in evaluation mode.
        data: with the labels or masks that are asked for.
        layer_selection: of the encoder's states.
        size: pixels of the image edge.
        precision: of the forward pass.
    """

    encoder: Encoder
    data: VisionDataModule
    layer_selection: LayerSelection
    size: int
    precision: Precision = "fp32"

    def encode(self, images: Tensor, loading: InferenceConfig) -> Tokens:
        """Return the features of 8-bit images."""
        with loading.precision():
            return extract_layers(
                self.encoder, normalize(images.to(loading.device)), [self.layer_selection]
            )[0]


@dataclass(frozen=True)
class SegmentationTable:
    """The patches of a split whose images were squeezed into squares.

    Attributes:
        x: patch features; they may lie in a file, which is not to be written to.
        masks: class of each pixel of the squares, 255 where there is none.
        grid: rows and columns of patches.
    """

    x: Float[Tensor, "n p d"]
    masks: UInt8[Tensor, "n size size"]
    grid: tuple[int, int]


def image_table(source: Source, split: str, context: EvaluationContext) -> Features:
    """Return [CLS] and label of every image of a split, from DINO's center crop."""

    def rows(pixels: Tensor, labels: Tensor) -> Tables:
        return {"x": source.encode(pixels, context.loading).cls.float().cpu(), "y": labels}

    images = source.data.classification_dataset(split, source.size)
    what = f"[CLS] of center crops, share {7 / 8}"
    tables = _table(source, split, what, images, rows, context)
    return Features(tables["x"], tables["y"])


def patch_table(source: Source, split: str, context: EvaluationContext) -> SegmentationTable:
    """Return the patches of every image of a split, squeezed into a square, and its mask."""

    def rows(pixels: Tensor, masks: Tensor) -> Tables:
        patches = source.encode(pixels, context.loading).patches.float().cpu()
        return {"x": patches, "masks": masks}

    squares = source.data.segmentation_dataset(split, SquareResize(source.size))
    tables = _table(source, split, "patches of squares", squares, rows, context)
    edge = source.size // source.encoder.patch_size
    return SegmentationTable(tables["x"], tables["masks"], (edge, edge))


def squeeze(
    mask: UInt8[Tensor, "height width"], rows: int, columns: int
) -> UInt8[Tensor, "rows columns"]:
    """Return a mask at another size, by the nearest pixel."""
    squeezed = resize_nearest(mask.cpu().numpy(), rows, columns)
    return torch.from_numpy(np.ascontiguousarray(squeezed))


def check_ranks(data: VisionDataModule, split: str) -> None:
    """Refuse more processes than images: one would have nothing to do.

    Raises:
        InputError: how many there are.
    """
    images = len(data.samples(split))
    if images < distributed.world_size():
        raise InputError(
            f"split {split!r} has {images} images for {distributed.world_size()} processes; use "
            f"{images} devices or fewer",
            field="--devices",
        )


def check_labels(data: VisionDataModule, split: str) -> None:
    """Look at masks spread over a split until one has a label; refuse if none of them has.

    Raises:
        InputError: no label in any mask.
    """
    images = data.segmentation_dataset(split, SegmentationSquare(16))  # masks keep their size
    looked = spread(len(images))
    if not any((images[index].mask != IGNORE_INDEX).any() for index in looked):
        raise InputError(
            f"all pixels of all {len(looked)} masks looked at, spread over split {split!r} of "
            f"{type(data).__name__}, are void, so there is nothing to learn from or to score; "
            "check the masks with `vitlab data check`",
            field="data",
        )


def first_of_all(
    maps: list[UInt8[Tensor, "size size"]], size: int, context: EvaluationContext
) -> list[UInt8[Tensor, "size size"]]:
    """Return the first few maps of the set, for pictures, from the first ones of each rank."""
    count = -(-PICTURES // distributed.world_size())
    first = torch.zeros(min(count, len(maps)), size, size, dtype=torch.uint8)
    for place, each in zip(first, maps, strict=False):
        place[:] = each
    return list(distributed.all_gather_rows(first.to(context.device))[:PICTURES].cpu())


def at_own_sizes(
    predictions: list[UInt8[Tensor, "rows columns"]], data: VisionDataModule
) -> list[UInt8[Tensor, "_ _"]]:
    """Return predictions of the first test images at the sizes of their masks, for pictures."""
    images = data.segmentation_dataset(data.val_split, SegmentationSquare(16))
    return [squeeze(each, *images[index][1].shape) for index, each in enumerate(predictions)]


def _table(
    source: Source,
    split: str,
    what: str,
    images: Dataset,
    rows: Callable[[Tensor, Tensor], Tables],
    context: EvaluationContext,
) -> Tables:
    """Return rows of all images of a split, from the cache or made and kept there."""

    def make() -> Tables:
        check_ranks(source.data, split)
        loader = sharded_loader(images, context.loading)
        title = f"features of {split}"
        found = [rows(*batch) for batch in context.track(loader, title, total=len(loader))]
        # gathered by image, so that the order is that of the set on any number of ranks
        device = context.device if distributed.world_size() > 1 else torch.device("cpu")
        tables = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        return {
            name: distributed.all_gather_rows(table.to(device)).cpu()
            for name, table in tables.items()
        }

    key = {}
    if context.cache:
        key = {
            **key_of(source.encoder, source.size, source.data, split),
            "what": what,
            "layer_selection": source.layer_selection.name,
            "size": str(source.size),
            "precision": source.precision,
        }
    return Cache(context.cache).table(key, make)
