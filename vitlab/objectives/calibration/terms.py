"""The terms of decision-stream calibration, as numbers to minimize.

Reconstructed, see docs/calibration.md: arXiv:2304.04354 after Transformer Doctor (NeurIPS 2024).

Axis letters: b images, p patches, n tokens, d width, m dimensions of a feature, k things with a
relevance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlab import distributed
from vitlab.encoders.tokens import split_at
from vitlab.objectives.calibration.relevance import Feature


@dataclass(frozen=True)
class TokenTerm:
    """The first stage: the decision shall not rest on patches of the background.

    Args:
        weight: of the relevance of the background; 0 leaves it out.
        foreground_weight: of 1 - cos between a patch of the foreground before and after a block; 0, as no
            source has it as a loss.
        layers: blocks that are calibrated: the last one, or the upper half.
        threshold: share of an image's range of relevance from which a patch is foreground, where
            that is derived.
        foreground: derived from the model before calibration, or told by masks that the data have;
            images without one then add nothing.
    """

    weight: float = 0.0
    foreground_weight: float = 0.0
    layers: Literal["last", "upper"] = "last"
    threshold: float = 0.15
    foreground: Literal["derived", "masks"] = "derived"

    def __post_init__(self) -> None:
        """Refuse what is no weight or share, and what would be ignored."""
        _check_weights("tokens", weight=self.weight, foreground_weight=self.foreground_weight)
        _check_threshold("tokens", self.threshold)
        others = (self.layers, self.threshold, self.foreground)
        if not self.active and others != ("last", 0.15, "derived"):
            raise ValueError(
                "tokens.layers, tokens.threshold or tokens.foreground is set while tokens.weight "
                "is 0, and would be ignored; set tokens.weight, for example 10"
            )
        if self.foreground == "masks" and self.threshold != 0.15:
            raise ValueError(
                f"tokens.threshold {self.threshold} would be ignored, as masks say what is "
                "foreground; leave it out, or set tokens.foreground derived"
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to add."""
        return bool(self.weight or self.foreground_weight)

    def blocks(self, depth: int) -> Sequence[int]:
        """Return the numbers of the calibrated blocks of so many."""
        return range(depth // 2 if self.layers == "upper" else depth - 1, depth)


@dataclass(frozen=True)
class DimensionTerm:
    """The second stage: the decision shall rest on the dimensions that the class has kept.

    Args:
        weight: of the relevance of the others; 0 leaves it out.
        feature: "hidden", [CLS] inside the last block's MLP; "cls", what the head reads.
        threshold: mean relevance of a class's surest images, each scaled to [0, 1], from which a
            dimension is kept.
        allow_unlearned: whether classes may be left as they are, for lack of any training image that
            the model classifies correctly.
    """

    weight: float = 0.0
    feature: Feature = "hidden"
    threshold: float = 0.15
    allow_unlearned: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no weight or share, and what would be ignored."""
        _check_weights("dimensions", weight=self.weight)
        _check_threshold("dimensions", self.threshold)
        others = (self.feature, self.threshold, self.allow_unlearned)
        if not self.weight and others != ("hidden", 0.15, False):
            raise ValueError(
                "dimensions has settings while dimensions.weight is 0, and they would be ignored; "
                "set dimensions.weight, for example 10"
            )


def background_loss(
    relevance: Float[Tensor, "b p"], shown: Bool[Tensor, "b p"], known: Bool[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return L_bg of a block: the sum of the background's relevance, a mean over known images.

    Args:
        relevance: what all queries take from each patch.
        shown: patches of the foreground.
        known: images whose foreground is known; the others add nothing. Over ranks, the mean is
            over those of all.
    """
    background = ~shown & known[:, None]
    return (relevance * background).sum() / _of_all_ranks(known.sum(), relevance)


def foreground_loss(
    before: Float[Tensor, "b n d"], after: Float[Tensor, "b n d"], shown: Bool[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Return L_fg of a block: the mean of 1 - cos between its patches before and after.

    Args:
        before: tokens that enter the block.
        after: tokens that leave it.
        shown: the patches that count, those of known foregrounds.
    """
    change = 1 - F.cosine_similarity(before.float(), after.float(), dim=-1)
    prefix = change.shape[1] - shown.shape[1]
    patches = split_at(change[..., None], prefix)[1][..., 0]
    return (patches * shown).sum() / _of_all_ranks(shown.sum(), patches)


def off_rule_loss(relevance: Float[Tensor, "b m"], kept: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Return L_dim: the sum of the relevance of dimensions that are not kept, a mean over images.

    Args:
        relevance: of the dimensions of [CLS].
        kept: those of the rule of the image's class.
    """
    return (relevance * ~kept).sum(1).mean()


def off_share(relevance: Float[Tensor, "b k"], kept: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Return the part of all relevance that is not on what is kept; 0 where there is none."""
    total = relevance.sum()
    return (relevance * ~kept).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def _of_all_ranks(count: Int[Tensor, ""], like: Tensor) -> Float[Tensor, ""]:
    """Return the count of all ranks over their number, at least 1 over it.

    Sums divided by it have a mean over ranks, which is what trains, as if one rank had all images.
    """
    return distributed.all_reduce_mean(count.to(like.dtype)).clamp_min(1 / distributed.world_size())


def _check_weights(name: str, **weights: float) -> None:
    for field, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"{name}.{field} {weight} is no weight; use a positive number, such as 10, or 0 to "
                "leave it out"
            )


def _check_threshold(name: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"{name}.threshold {threshold} is not in [0, 1]; Transformer Doctor uses 0.15"
        )
