"""Frozen features of whole splits, in the order of their images and the same on each rank.

Axis letters: n images, p patches, d width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab import distributed
from vitlab.data import VisionDataModule, normalize
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.cache import Tables, cached
from vitlab.evaluation.fingerprint import key_of
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Precision, Protocol
from vitlab.evaluation.square_transforms import SquareResize
from vitlab.probes.features import sharded_loader
from vitlab.probes.layer_selection import LayerSelection, check_layers, extract_layers
from vitlab.progress import track


@dataclass(frozen=True, kw_only=True)
class TableProtocol(Protocol):
    """A protocol on a table of frozen features, which a cache may keep.

    Args:
        size: pixels of an image's edge: of the center crop, which is 7/8 of the short side, for
            labels; of the square that the whole image is squeezed into, for masks.
        layer_selection: which [CLS] or patches.
        precision: of the forward pass; everything else is fp32.
    """

    size: int = 224
    layer_selection: LayerSelection = LayerSelection()  # noqa: RUF009, frozen
    precision: Precision = "fp32"

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes and layers that do not fit."""
        encoder.check_img_size(self.size, "protocol.size")
        check_layers(encoder, [self.layer_selection])

    def table(
        self, encoder: Encoder, data: VisionDataModule, split: str, context: EvaluationContext
    ) -> tuple[Tensor, Tensor]:
        """Return features of all images of a split, from the cache or made and kept there.

        They may lie in a file, which is not to be written to.

        Returns:
            [CLS] (n, d) and classes (n); or patches (n, p, d) and the classes of all pixels
            (n, size, size), 255 where there is none.
        """
        dense = self.task == "segmentation"

        def make() -> Tables:
            check_ranks(data, split)
            images = (
                data.segmentation_dataset(split, SquareResize(self.size))
                if dense
                else data.classification_dataset(split, self.size)
            )
            loader = sharded_loader(images, context.loading)
            x, y = [], []
            for pixels, labels in track(loader, f"features of {split}"):
                with context.loading.precision():
                    (tokens,) = extract_layers(
                        encoder, normalize(pixels.to(context.device)), [self.layer_selection]
                    )
                x.append((tokens.patches if dense else tokens.cls).float().cpu())
                y.append(labels)
            # gathered by image, so that the order is that of the set on any number of ranks
            device = context.device if distributed.world_size() > 1 else torch.device("cpu")
            parts = {"x": torch.cat(x), "y": torch.cat(y)}
            return {
                name: distributed.all_gather_rows(part.to(device)).cpu()
                for name, part in parts.items()
            }

        key = {}
        if context.cache:
            key = {
                **key_of(encoder, self.size, data, split),
                "what": "patches of squares" if dense else "[CLS] of center crops",
                "layer_selection": self.layer_selection.name,
                "size": str(self.size),
                "precision": self.precision,
            }
        tables = cached(context.cache, key, make)
        return tables["x"], tables["y"]


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


def first_of_all(
    maps: list[UInt8[Tensor, "size size"]], size: int, context: EvaluationContext
) -> list[UInt8[Tensor, "size size"]]:
    """Return the first few maps of the set, for pictures, from the first ones of each rank."""
    count = -(-PICTURES // distributed.world_size())
    first = torch.zeros(min(count, len(maps)), size, size, dtype=torch.uint8)
    for place, each in zip(first, maps, strict=False):
        place[:] = each
    return list(distributed.all_gather_rows(first.to(context.device))[:PICTURES].cpu())
