"""Loading of encoders for evaluation, whatever pixel normalization they were trained with."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.data import MEAN, STD
from vitlab.encoders import Encoder, Tokens, TokenSequence, load_pretrained
from vitlab.encoders.encoder import plain_values
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.result import WeightsInfo


class FrozenEncoder(NamedTuple):
    """An encoder for images normalized by ImageNet's statistics, and its description in results."""

    encoder: Encoder
    info: WeightsInfo


def load_frozen_encoder(
    weights: Path,
    family: str = "auto",
    which: str = "",
    pixels: str = "auto",
    backbone: str = "",
) -> FrozenEncoder:
    """Load weights for evaluation.

    Args:
        weights: checkpoint, exported folder or foreign file.
        family: format of the weights; auto recognizes it.
        which: model of a file with several.
        pixels: normalization that the weights were trained with: auto, imagenet or half.
        backbone: path of the backbone of prompts.

    Raises:
        InputError: unreadable weights, or unknown normalization.
    """
    imported = load_pretrained(weights, family, which, backbone=backbone)  # type: ignore[arg-type]
    encoder = imported.encoder
    if pixels == "auto":
        if imported.origin == "timm":
            raise InputError(
                "weights of timm are trained with pixels of either kind; give --pixels imagenet or "
                "--pixels half (mean and deviation 0.5, as AugReg), see the model's pretrained_cfg",
                field="--pixels",
            )
        pixels = "half" if imported.origin == "locatvit" else "imagenet"
    info = WeightsInfo(
        path=str(weights),
        hash=fingerprint(encoder),
        encoder={**plain_values(encoder.config), "pixels": pixels},
        family=imported.family,
        branch=imported.branch,
    )
    return FrozenEncoder(Renormalized(encoder) if pixels == "half" else encoder, info)


class Renormalized(Encoder):
    """Takes images normalized by ImageNet's statistics, and gives its encoder (rgb - 0.5) / 0.5.

    So are LocAtViT and timm's AugReg weights trained.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.inner = encoder
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
        self.register_buffer("factor", std / 0.5, persistent=False)
        self.register_buffer("offset", (mean - 0.5) / 0.5, persistent=False)
        self.factor: Tensor
        self.offset: Tensor

    @property
    def blocks(self) -> nn.Module:
        """The blocks of the encoder."""
        return self.inner.get_submodule("blocks")

    def count_blocks(self) -> int:
        """Return the number of blocks of the encoder."""
        return self.inner.count_blocks()

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Walk through the encoder."""
        return self.inner.walk(images * self.factor + self.offset)

    def read(self, state: TokenSequence) -> Tokens:
        """Return a state as the encoder reads it."""
        return self.inner.read(state)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the encoder's features."""
        return self.inner(images * self.factor + self.offset)
