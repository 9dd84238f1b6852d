"""What dense heads read: patches of some layers, with or without [CLS], of images of any size.

Axis letters: b images, p patches, d width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlab.data import normalize
from vitlab.encoders import Encoder
from vitlab.probes.features import InferenceConfig
from vitlab.probes.finiteness import check_finite
from vitlab.probes.layer_selection import (
    LayerSelection,
    check_cls,
    check_layers,
    concatenate_cls,
    extract_layers,
)

Fit = Literal["refuse", "pad", "pad end", "crop"]


@dataclass(frozen=True)
class FeatureMaps:
    """Features of images of one size.

    Attributes:
        features: (b, p, d) of each variant, by its name, in fp32.
        grid: rows and columns of patches.
    """

    features: dict[str, Float[Tensor, "b p _"]]
    grid: tuple[int, int]


@dataclass(frozen=True)
class FeatureSpec:
    """Variants of features, all from one pass: each reading with each choice of [CLS].

    Args:
        readings: layers, and whether they pass the final norm.
        cls: for each variant whether [CLS] stands behind every patch.
        fit: what is done with sides that are no multiple of the patch: they are refused, filled
            with the mean color on both sides ("pad", DINOv2's notebook) or at the bottom and on
            the right ("pad end", timm), or lose pixels there ("crop", DINOv2's model). In the last
            three, logits are still stretched over the whole image, as the published code does.
    """

    readings: tuple[LayerSelection, ...] = (LayerSelection(),)
    cls: tuple[bool, ...] = (False,)
    fit: Fit = "refuse"

    def __post_init__(self) -> None:
        """Refuse a choice that is empty or made twice."""
        for name, value in [("readings", self.readings), ("cls", self.cls)]:
            if not value or len(set(value)) < len(value):
                raise ValueError(f"{name} {value}: name at least one, and none twice")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(reading, cls): encoder.embed_dim * len(reading.layers) * (1 + cls)
            for reading in self.readings
            for cls in self.cls
        }

    def check(self, encoder: Encoder, size: int, setting: str) -> None:
        """Refuse layers and [CLS] that the encoder lacks, and sizes that patches do not tile.

        Args:
            encoder: to be read.
            size: pixels of an image edge; 0 where images decide it.
            setting: the option that asked for it.
        """
        check_layers(encoder, self.readings)
        if any(self.cls):
            check_cls(encoder, encoder.patch_size, "inputs.cls asks for; set inputs.cls to [false]")
        if self.fit != "refuse":
            return
        if not size:
            raise ValueError(
                f"{setting} leaves images or windows of sizes that are not all multiples of patch "
                f"{encoder.patch_size}; set inputs.fit to pad, pad end or crop"
            )
        try:
            encoder.check_img_size(size, setting)
        except ValueError as error:
            raise ValueError(f"{error}; or set inputs.fit to pad or crop") from error

    def read(
        self, encoder: Encoder, images: UInt8[Tensor, "b 3 height width"], loading: InferenceConfig
    ) -> FeatureMaps:
        """Return all variants of images, wherever they are now.

        Raises:
            ValueError: features that are not finite.
        """
        with torch.no_grad(), loading.precision():
            fitted = self._fitted(normalize(images.to(loading.device)), encoder.patch_size)
            found = extract_layers(encoder, fitted, self.readings)
        check_finite(*(tokens.patches for tokens in found))
        if any(self.cls):
            check_finite(*(tokens.cls for tokens in found))
        features = {
            self._name(reading, cls): (concatenate_cls(tokens) if cls else tokens.patches).float()
            for reading, tokens in zip(self.readings, found, strict=True)
            for cls in self.cls
        }
        return FeatureMaps(features, found[0].grid)

    def _name(self, reading: LayerSelection, cls: bool) -> str:
        return f"{reading.name}{' and [CLS]' if cls else ''}"

    def _fitted(self, images: Tensor, patch: int) -> Tensor:
        height, width = images.shape[-2:]
        down, across = -height % patch, -width % patch
        if self.fit == "refuse" or not (down or across):
            return images
        if self.fit == "crop":
            return images[..., : height - height % patch, : width - width % patch]
        ends = self.fit == "pad end"
        top, left = (0, 0) if ends else (down // 2, across // 2)
        return F.pad(images, (left, across - left, top, down - top))
