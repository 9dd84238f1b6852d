"""Selection of an encoder's layers for probes; one forward pass for any number of selections.

Axis letters: b images, p patches, d width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlab.data import normalize
from vitlab.encoders import Encoder, Tokens, TokenSequence
from vitlab.errors import InputError, check_fields
from vitlab.probes.features import InferenceConfig, check_finite

Fit = Literal["refuse", "pad", "pad end", "crop"]


@dataclass(frozen=True)
class LayerSelection:
    """Layers, and whether they pass the final norm; several are concatenated along the width.

    Args:
        layers: block indices, in this order: 0 is the first block, -1 the last.
        norm: whether each passes the encoder's final norm (and, for [CLS], the patch refinement of
            an encoder that has it). False reads the raw state.
    """

    layers: tuple[int, ...] = (-1,)
    norm: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("layers is empty; name at least one, -1 for the last", field="layers")

    @property
    def name(self) -> str:
        """Short name for tables: layers -4,-1 with norm."""
        layers = ",".join(str(layer) for layer in self.layers)
        return f"layers {layers} {'with' if self.norm else 'without'} norm"


def check_layers(encoder: Encoder, selections: Sequence[LayerSelection]) -> None:
    """Refuse layers that the encoder does not have.

    Raises:
        InputError: the layer, and the allowed ones.
    """
    for selection in selections:
        _indices(selection, encoder.count_blocks())


def _indices(selection: LayerSelection, depth: int) -> list[int]:
    """Return the layers of a selection, counted from 0."""
    count = max(depth, 1)
    for layer in selection.layers:
        if not -count <= layer < count:
            raise InputError(
                f"layer {layer} is asked of an encoder with {depth} blocks; use 0 to {count - 1}, "
                f"or {-count} to -1 from the end",
                field="layers",
            )
    return [layer % count for layer in selection.layers]


def check_cls(encoder: Encoder, size: int, remedy: str) -> None:
    """Refuse an encoder without an image-level feature, whose [CLS] has no width.

    Args:
        encoder: tried on one black image.
        size: pixels of its edge.
        remedy: end of the error's sentence.

    Raises:
        InputError: the encoder has none.
    """
    first = next(encoder.parameters(), torch.zeros(0))
    with torch.no_grad():
        tokens = encoder(torch.zeros(1, 3, size, size, device=first.device))
    if not tokens.cls.shape[1]:
        raise InputError(
            f"{type(encoder).__name__} has no [CLS], which {remedy}", field="protocol.features.cls"
        )


def extract_layers(
    encoder: Encoder,
    images: Float[Tensor, "b 3 height width"],
    selections: Sequence[LayerSelection],
) -> list[Tokens]:
    """Return the features of every selection, from one forward pass that keeps selected states.

    Raises:
        InputError: a layer that the encoder does not have.
    """
    depth = encoder.count_blocks()
    indices = [_indices(selection, depth) for selection in selections]
    wanted, states = {layer for each in indices for layer in each}, {}
    # the first state enters the first block, unless there are no blocks
    for layer, state in enumerate(encoder.walk(images), start=-(depth > 0)):
        if layer in wanted:
            states[layer] = state
    return [
        _read(encoder, [states[layer] for layer in each], selection.norm)
        for each, selection in zip(indices, selections, strict=True)
    ]


def _read(encoder: Encoder, states: list[TokenSequence], norm: bool) -> Tokens:
    tokens = [encoder.read(state) if norm else state.tokens() for state in states]
    if len(tokens) == 1:
        return tokens[0]
    return Tokens(
        torch.cat([each.cls for each in tokens], dim=-1),
        torch.cat([each.registers for each in tokens], dim=-1),
        torch.cat([each.patches for each in tokens], dim=-1),
        tokens[0].grid,
    )


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
        _check_choices(self, "layer_selections", "cls")

    def _variants(self) -> Iterator[tuple[str, int, bool]]:
        """Yield name, number of the selection, and whether [CLS] is concatenated."""
        for index, selection in enumerate(self.layer_selections):
            for cls in self.cls:
                yield f"{selection.name}{' and [CLS]' if cls else ''}", index, cls

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        counts = [len(selection.layers) for selection in self.layer_selections]
        return {
            name: encoder.embed_dim * counts[index] * (1 + cls)
            for name, index, cls in self._variants()
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
        if self.fit == "refuse" and (not size or size % encoder.patch_size):
            raise InputError(
                f"{setting} leaves images or windows of {size or 'several'} pixels that are not "
                f"all multiples of patch {encoder.patch_size}; give such a size, or set "
                "features.fit to pad, pad end or crop",
                field="protocol.features.fit",
            )

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
            name: (concatenate_cls(found[index]) if cls else found[index].patches).float()
            for name, index, cls in self._variants()
        }
        return FeatureMaps(features, found[0].grid)

    def _fitted(self, images: Tensor, patch: int) -> Tensor:
        height, width = images.shape[-2:]
        down, across = -height % patch, -width % patch
        if self.fit == "refuse" or not (down or across):
            return images
        if self.fit == "crop":
            return images[..., : height - height % patch, : width - width % patch]
        top, left = (0, 0) if self.fit == "pad end" else (down // 2, across // 2)
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
        _check_choices(self, "layer_selections", "mean")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            _image_name(selection, mean): encoder.embed_dim * (len(selection.layers) + mean)
            for selection in self.layer_selections
            for mean in self.mean
        }

    def read(self, encoder: Encoder, images: Tensor, loading: InferenceConfig) -> FeatureMaps:
        """Return all variants of images in 8 bits, as maps of a single patch, in fp32.

        Raises:
            InputError: features that are not finite.
        """
        with torch.no_grad(), loading.precision():
            pixels = normalize(images.to(loading.device))
            found = extract_layers(encoder, pixels, self.layer_selections)
        features = {}
        for selection, tokens in zip(self.layer_selections, found, strict=True):
            last = tokens.patches[..., -encoder.embed_dim :].float().mean(1)
            check_finite(tokens.cls, last)
            for mean in self.mean:
                parts = [tokens.cls.float(), last] if mean else [tokens.cls.float()]
                features[_image_name(selection, mean)] = torch.cat(parts, dim=-1)[:, None]
        return FeatureMaps(features, (1, 1))


def _image_name(selection: LayerSelection, mean: bool) -> str:
    return f"{selection.name}{' and mean patch' if mean else ''}"


def _check_choices(spec: object, *names: str) -> None:
    message = "is empty or names one twice; name at least one, and none twice"
    choices = {name: getattr(spec, name) for name in names}
    wrong = {name: len(set(value)) < max(len(value), 1) for name, value in choices.items()}
    check_fields(spec, "protocol.features.", {name: (wrong[name], message) for name in names})


def concatenate_cls(tokens: Tokens) -> Float[Tensor, "b p two_d"]:
    """Return the patches, each concatenated with the [CLS] of its image."""
    cls = tokens.cls[:, None].expand(-1, tokens.patches.shape[1], -1)
    return torch.cat([tokens.patches, cls], dim=-1)
