"""Features that heads read: patches of chosen layers, or [CLS] of whole images.

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
from vitlab.errors import InputError, check_fields
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
    """Variants of features from one forward pass: each layer selection with each choice of [CLS].

    Args:
        layer_selections: layers, and whether they pass the final norm.
        cls: for each variant whether [CLS] is concatenated to every patch.
        fit: of sides that are no multiple of the patch size: refused, padded with the mean color on
            both sides ("pad", DINOv2's notebook) or at the bottom and on the right ("pad end",
            timm), or cropped there ("crop", DINOv2's model). In the last three, logits are still
            resized to the whole image, as the published code does.
    """

    layer_selections: tuple[LayerSelection, ...] = (LayerSelection(),)
    cls: tuple[bool, ...] = (False,)
    fit: Fit = "refuse"

    def __post_init__(self) -> None:
        """Refuse empty and repeated choices."""
        _check_choices(self, "layer_selections", "cls")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(selection, cls): encoder.embed_dim * len(selection.layers) * (1 + cls)
            for selection in self.layer_selections
            for cls in self.cls
        }

    def check(self, encoder: Encoder, size: int, setting: str) -> None:
        """Refuse layers and [CLS] that the encoder lacks, and sizes that patches do not tile.

        Args:
            encoder: of the features.
            size: pixels of an image edge; 0 where it depends on the image.
            setting: the option of the size.
        """
        check_layers(encoder, self.layer_selections)
        if any(self.cls):
            remedy = "features.cls asks for; set features.cls to [false]"
            check_cls(encoder, encoder.patch_size, remedy)
        if self.fit != "refuse":
            return
        if not size:
            raise InputError(
                f"{setting} leaves images or windows of sizes that are not all multiples of patch "
                f"{encoder.patch_size}; set features.fit to pad, pad end or crop",
                field="protocol.features.fit",
            )
        try:
            encoder.check_img_size(size, setting)
        except ValueError as error:
            raise InputError(
                f"{error}; or set features.fit to pad or crop", field="protocol.features.fit"
            ) from error

    def read(
        self, encoder: Encoder, images: UInt8[Tensor, "b 3 height width"], loading: InferenceConfig
    ) -> FeatureMaps:
        """Return all variants of images on any device.

        Raises:
            InputError: features that are not finite.
        """
        with torch.no_grad(), loading.precision():
            fitted = self._fitted(normalize(images.to(loading.device)), encoder.patch_size)
            found = extract_layers(encoder, fitted, self.layer_selections)
        check_finite(*(tokens.patches for tokens in found))
        if any(self.cls):
            check_finite(*(tokens.cls for tokens in found))
        features = {
            self._name(selection, cls): (concatenate_cls(tokens) if cls else tokens.patches).float()
            for selection, tokens in zip(self.layer_selections, found, strict=True)
            for cls in self.cls
        }
        return FeatureMaps(features, found[0].grid)

    def _name(self, selection: LayerSelection, cls: bool) -> str:
        return f"{selection.name}{' and [CLS]' if cls else ''}"

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
        """Refuse empty and repeated choices."""
        _check_choices(self, "layer_selections", "mean")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(selection, mean): encoder.embed_dim * (len(selection.layers) + mean)
            for selection in self.layer_selections
            for mean in self.mean
        }

    def read(self, encoder: Encoder, images: Tensor, loading: InferenceConfig) -> FeatureMaps:
        """Return all variants of images in 8 bits, as maps of a single patch, in fp32.

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
        return FeatureMaps(features, (1, 1))

    def _name(self, selection: LayerSelection, mean: bool) -> str:
        return f"{selection.name}{' and mean patch' if mean else ''}"


def _check_choices(spec: object, *names: str) -> None:
    message = "is empty or names one twice; name at least one, and none twice"
    choices = {name: getattr(spec, name) for name in names}
    wrong = {name: len(set(value)) < max(len(value), 1) for name, value in choices.items()}
    check_fields(spec, "protocol.features.", {name: (wrong[name], message) for name in names})
