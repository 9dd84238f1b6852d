"""Features of whole images that heads read: [CLS] of some layers, and the mean patch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitlab.data import normalize
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.probes import InferenceConfig
from vitlab.probes.feature_maps import FeatureMaps
from vitlab.probes.finiteness import check_finite
from vitlab.probes.layer_selection import LayerSelection, extract_layers


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
        """Refuse a choice that is empty or made twice."""
        for name, value in [("layer_selections", self.layer_selections), ("mean", self.mean)]:
            if not value or len(set(value)) < len(value):
                raise InputError(
                    f"{name} {value}: name at least one, and none twice",
                    field=f"protocol.features.{name}",
                )

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
