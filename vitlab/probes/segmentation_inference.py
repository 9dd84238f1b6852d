"""Segmentation inference of dense heads: whole images or sliding windows, scales and flips.

Axis letters: w windows, p patches, c classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data import SegmentationSquare, SegmentationWhole, VisionDataModule, slide
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import windows
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.probes.dense import upsample
from vitlab.probes.features import InferenceConfig
from vitlab.probes.layer_selection import FeatureMaps, FeatureSpec

WINDOWS = 4  # of one forward pass: constant, so that no setting changes a rounding

Logits = Callable[[dict[str, Tensor]], Float[Tensor, "w p c"]]


@dataclass(frozen=True)
class SegmentationInference:
    """Settings of segmentation inference; predictions have the mask's own size.

    Args:
        short: short side of the image at ratio 1, in pixels; 0 leaves its size.
        square: whether the image is resized to `short` by `short` instead.
        aspect: largest long side, in times of `short`; 4 in mmsegmentation's own configs, no limit
            in DINOv2's.
        window: edge of sliding windows, in pixels; 0 takes the whole image.
        stride: of the windows, in pixels.
        average: of overlapping windows: "logits", as mmsegmentation and DINOv2, or
            "probabilities", as DINOv3.
        ratios: factors of `short`; probabilities of several are averaged at the mask's size.
        flip: whether each is also predicted mirrored.
        pixels: edge of the square to which logits and mask are resized before they are compared,
            in training as well; 0 for the mask's own size.
    """

    short: int = 512
    square: bool = False
    aspect: float = math.inf
    window: int = 0
    stride: int = 0
    average: Literal["logits", "probabilities"] = "logits"
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    pixels: int = 0

    def __post_init__(self) -> None:
        if self.window:
            windows(self.window, self.window, self.window, self.stride)  # refuses gaps
        if not self.ratios or min(self.ratios) <= 0:
            raise InputError(
                f"ratios {self.ratios}: give at least one, all positive",
                field="protocol.inference.ratios",
            )
        if (self.square or self.ratios != (1.0,)) and not self.short:
            raise InputError(
                "short is 0, but square and ratios need a length; give short",
                field="protocol.inference.short",
            )
        if self.pixels < 0 or (self.pixels and (self.window or self.several)):
            raise InputError(
                f"pixels {self.pixels} is for whole images at one scale; set window to 0, flip "
                "to false and ratios to [1], or pixels to 0",
                field="protocol.inference.pixels",
            )

    @property
    def several(self) -> bool:
        """Whether predictions of several scales or directions are averaged."""
        return self.flip or len(self.ratios) > 1

    def edge(self) -> int:
        """Return the edge of the encoder's inputs, in pixels; 0 where images differ."""
        smallest = int(self.short * min(self.ratios))
        if self.window and smallest >= self.window and (self.square or math.isinf(self.aspect)):
            return self.window
        return self.short if not self.window and self.square and len(self.ratios) == 1 else 0

    def scales(self, data: VisionDataModule, split: str) -> "MultiScaleDataset":
        """Return the images of a split at each ratio, and their masks."""
        shorts = [int(self.short * ratio) for ratio in self.ratios]
        views = [
            SegmentationSquare(each) if self.square else SegmentationWhole(each, self.aspect)
            for each in shorts
        ]
        return MultiScaleDataset([data.segmentation_dataset(split, view) for view in views])

    def target(self, mask: UInt8[Tensor, "height width"]) -> UInt8[Tensor, "_ _"]:
        """Return the mask at the size of the comparison."""
        return resize_mask(mask[None], self.pixels)[0]

    def encode(
        self,
        encoder: Encoder,
        inputs: FeatureSpec,
        images: Sequence[UInt8[Tensor, "3 _ _"]],
        loading: InferenceConfig,
    ) -> list["EncodedImage"]:
        """Encode each scale and direction of one image, once for all heads."""
        encoded = []
        for image, mirrored in product(images, (False, True) if self.flip else (False,)):
            view = image.flip(-1) if mirrored else image
            height, width = view.shape[-2:]
            size = self.window or max(height, width)
            rows, columns = min(size, height), min(size, width)
            corners = windows(height, width, size, self.stride or size)
            parts = torch.stack([view[:, t : t + rows, x : x + columns] for t, x in corners])
            maps = [inputs.read(encoder, some, loading) for some in parts.split(WINDOWS)]
            joined = {
                name: torch.cat([m.features[name] for m in maps]) for name in maps[0].features
            }
            features = FeatureMaps(joined, maps[0].grid)
            encoded.append(EncodedImage(features, (height, width), mirrored))
        return encoded

    def predict(
        self, views: Sequence["EncodedImage"], logits: Logits, size: Sequence[int]
    ) -> Int[Tensor, "_ _"]:
        """Return the class of each pixel by one head.

        Args:
            views: the encoded scales and directions of the image.
            logits: the head, from features to logits.
            size: height and width of the mask.
        """
        size = (self.pixels, self.pixels) if self.pixels else tuple(size)
        total: Tensor | None = None
        for view in views:
            scores = upsample(self._scores(view, logits), size)
            if self.several:
                scores = scores if self.average == "probabilities" else scores.softmax(1)
                scores = scores.flip(-1) if view.mirrored else scores
            total = scores if total is None else total.add_(scores)
        assert total is not None
        return total[0].argmax(0)

    def _scores(self, view: "EncodedImage", logits: Logits) -> Float[Tensor, "1 c _ _"]:
        """Return logits or probabilities of one view at its own size; of patches with `pixels`."""
        small = logits(view.maps.features).transpose(1, 2).unflatten(2, view.maps.grid)
        if self.pixels:
            return small
        height, width = view.size
        size = self.window or max(height, width)
        remaining = iter(small.split(1))

        def window(region: Tensor) -> Tensor:
            large = upsample(next(remaining), region.shape[-2:])
            return large.softmax(1) if self.average == "probabilities" else large

        blank = small.new_empty(1, 1, 1, 1).expand(1, 3, height, width)  # slide reads its shape
        return slide(window, blank, size, self.stride or size)


@dataclass(frozen=True)
class EncodedImage:
    """Features of the windows of one image at one scale, of a size in pixels, maybe mirrored."""

    maps: FeatureMaps
    size: tuple[int, int]
    mirrored: bool


class MultiScaleDataset(Dataset[tuple[list[Tensor], Tensor]]):
    """One image at several scales, with its mask; `sets` have the same samples at other sizes."""

    def __init__(self, sets: Sequence[SegmentationDataset]):
        self.sets = list(sets)

    def __len__(self) -> int:
        return len(self.sets[0])

    def __getitem__(
        self, index: int
    ) -> tuple[list[UInt8[Tensor, "3 _ _"]], UInt8[Tensor, "height width"]]:
        pairs = [each[index] for each in self.sets]
        return [pair.image for pair in pairs], pairs[0].mask


def resize_mask(
    masks: UInt8[Tensor, "b height width"], pixels: int
) -> UInt8[Tensor, "b new_height new_width"]:
    """Return masks at another size, by the nearest pixel; 0 leaves their size."""
    if not pixels:
        return masks
    down, across = (
        torch.from_numpy((2 * np.arange(pixels) + 1) * old // (2 * pixels)).to(masks.device)
        for old in masks.shape[-2:]
    )
    return masks[:, down][:, :, across]
