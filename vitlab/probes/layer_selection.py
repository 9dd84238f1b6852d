"""Selection of an encoder's layers for probes; one forward pass for any number of selections.

Axis letters: b images, p patches, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders import Encoder, Tokens, TokenSequence
from vitlab.errors import InputError


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
        """Refuse an empty choice."""
        if not self.layers:
            raise InputError("layers is empty; name at least one, -1 for the last", field="layers")

    @property
    def name(self) -> str:
        """Short name for tables: layers -4,-1 with norm."""
        layers = ",".join(str(layer) for layer in self.layers)
        return f"layers {layers} {'with' if self.norm else 'without'} norm"


def extract_layers(
    encoder: Encoder,
    images: Float[Tensor, "b 3 height width"],
    selections: Sequence[LayerSelection],
) -> list[Tokens]:
    """Return the features of every selection, from one forward pass.

    Only selected states are kept.

    Raises:
        InputError: a layer that the encoder does not have.
    """
    depth = depth_of(encoder)
    wanted = {_index(layer, depth) for selection in selections for layer in selection.layers}
    states: dict[int, TokenSequence] = {}
    for index, state in enumerate(encoder.walk(images)):
        # the first state enters the first block, unless there are no blocks
        if index - (depth > 0) in wanted:
            states[index - (depth > 0)] = state
    return [_read_one(encoder, states, selection, depth) for selection in selections]


def depth_of(encoder: Encoder) -> int:
    """Return the number of blocks; 0 for an encoder without, whose only layer is 0 or -1."""
    return len(getattr(encoder, "blocks", ()))


def check_layers(encoder: Encoder, selections: Sequence[LayerSelection]) -> None:
    """Refuse layers that the encoder does not have.

    Raises:
        InputError: the layer, and the allowed ones.
    """
    for selection in selections:
        for layer in selection.layers:
            _index(layer, depth_of(encoder))


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


def _index(layer: int, depth: int) -> int:
    last = max(depth - 1, 0)
    index = layer + last + 1 if layer < 0 else layer
    if not 0 <= index <= last:
        raise InputError(
            f"layer {layer} is asked of an encoder with {depth} blocks; use 0 to {last}, or "
            f"{-last - 1} to -1 from the end",
            field="layers",
        )
    return index


def _read_one(
    encoder: Encoder, states: dict[int, TokenSequence], selection: LayerSelection, depth: int
) -> Tokens:
    parts = [states[_index(layer, depth)] for layer in selection.layers]
    tokens = [encoder.read(state) if selection.norm else state.tokens() for state in parts]
    if len(tokens) == 1:
        return tokens[0]
    return Tokens(
        torch.cat([each.cls for each in tokens], dim=-1),
        torch.cat([each.registers for each in tokens], dim=-1),
        torch.cat([each.patches for each in tokens], dim=-1),
        tokens[0].grid,
    )


def concatenate_cls(tokens: Tokens) -> Float[Tensor, "b p two_d"]:
    """Return the patches, each concatenated with the [CLS] of its image."""
    cls = tokens.cls[:, None].expand(-1, tokens.patches.shape[1], -1)
    return torch.cat([tokens.patches, cls], dim=-1)
