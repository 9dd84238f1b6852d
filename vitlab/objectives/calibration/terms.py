"""Terms of decision-stream calibration: settings and losses.

Reconstructed, see docs/calibration.md: arXiv:2304.04354 after Transformer Doctor (NeurIPS 2024).

Axis letters: b images, p patches, n tokens, d width, m dimensions of a feature, k patches or
dimensions.
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
from vitlab.errors import InputError
from vitlab.objectives.calibration.relevance import Feature


@dataclass(frozen=True)
class TokenTerm:
    """The first stage: no relevance on patches of the background.

    Args:
        weight: of the relevance of the background; 0 for none.
        foreground_weight: of 1 - cos between a patch of the foreground before and after a block;
            0, as no source has it as a loss.
        layers: blocks that are calibrated: the last one, or the upper half.
        threshold: share of an image's range of relevance from which a patch is foreground, where
            that is derived.
        foreground: derived from the model before calibration, or the masks of the data; images
            without a mask then add nothing.
    """

    weight: float = 0.0
    foreground_weight: float = 0.0
    layers: Literal["last", "upper"] = "last"
    threshold: float = 0.15
    foreground: Literal["derived", "masks"] = "derived"

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings without effect."""
        _check_weight("tokens.weight", self.weight)
        _check_weight("tokens.foreground_weight", self.foreground_weight)
        _check_threshold("tokens.threshold", self.threshold)
        others = (self.layers, self.threshold, self.foreground)
        if not self.active and others != ("last", 0.15, "derived"):
            raise InputError(
                "tokens.layers, tokens.threshold or tokens.foreground is set while tokens.weight "
                "is 0, and would be ignored; set tokens.weight, for example 10",
                field="model.objective.tokens.weight",
            )
        if self.foreground == "masks" and self.threshold != 0.15:
            raise InputError(
                f"tokens.threshold {self.threshold} would be ignored, as the foreground is that of "
                "the masks; leave it out, or set tokens.foreground derived",
                field="model.objective.tokens.threshold",
            )

    @property
    def active(self) -> bool:
        """Whether the term adds anything."""
        return bool(self.weight or self.foreground_weight)

    def blocks(self, depth: int) -> Sequence[int]:
        """Return the indices of the calibrated blocks of an encoder with `depth` blocks."""
        return range(depth // 2 if self.layers == "upper" else depth - 1, depth)


@dataclass(frozen=True)
class DimensionTerm:
    """The second stage: relevance on the dimensions of the class's mask only.

    Args:
        weight: of the relevance of the other dimensions; 0 for none.
        feature: "hidden", [CLS] inside the last block's MLP; "cls", the input of the head.
        threshold: mean relevance of a class's most confident images, each scaled to [0, 1], from
            which a dimension is in the mask.
        allow_unlearned: whether classes without any training image that the model classifies
            correctly may keep all dimensions.
    """

    weight: float = 0.0
    feature: Feature = "hidden"
    threshold: float = 0.15
    allow_unlearned: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings without effect."""
        _check_weight("dimensions.weight", self.weight)
        _check_threshold("dimensions.threshold", self.threshold)
        others = (self.feature, self.threshold, self.allow_unlearned)
        if not self.weight and others != ("hidden", 0.15, False):
            raise InputError(
                "dimensions has settings while dimensions.weight is 0, and they would be ignored; "
                "set dimensions.weight, for example 10",
                field="model.objective.dimensions.weight",
            )


def background_loss(
    relevance: Float[Tensor, "b p"], foreground: Bool[Tensor, "b p"], known: Bool[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return L_bg of a block: the sum of the background's relevance, a mean over known images.

    Args:
        relevance: of each patch as a key, over all queries.
        foreground: patches of the foreground.
        known: images whose foreground is known; the others add nothing. The mean is over those of
            all ranks.
    """
    background = ~foreground & known[:, None]
    return (relevance * background).sum() / _mean_count(known.sum(), relevance)


def foreground_loss(
    before: Float[Tensor, "b n d"], after: Float[Tensor, "b n d"], foreground: Bool[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Return L_fg of a block: the mean of 1 - cos between its patches before and after.

    Args:
        before: tokens that enter the block.
        after: tokens that leave it.
        foreground: the patches that count, those of known foregrounds.
    """
    change = 1 - F.cosine_similarity(before.float(), after.float(), dim=-1)
    prefix = change.shape[1] - foreground.shape[1]
    patches = split_at(change[..., None], prefix)[1][..., 0]
    return (patches * foreground).sum() / _mean_count(foreground.sum(), patches)


def dimension_loss(relevance: Float[Tensor, "b m"], mask: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Return L_dim: the sum of the relevance of dimensions outside the mask, a mean over images.

    Args:
        relevance: of the dimensions of [CLS].
        mask: that of the image's class.
    """
    return (relevance * ~mask).sum(1).mean()


def off_share(relevance: Float[Tensor, "b k"], mask: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Return the share of all relevance that is outside the mask; 0 where there is none."""
    total = relevance.sum()
    return (relevance * ~mask).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def _mean_count(count: Int[Tensor, ""], like: Tensor) -> Float[Tensor, ""]:
    """Return the count of all ranks over their number, at least 1 over it.

    Sums divided by it have the mean over ranks, which is what trains, of one rank with all images.
    """
    mean = distributed.all_reduce_mean(count.to(like.dtype))
    return mean.clamp_min(1 / distributed.world_size())


def _check_weight(name: str, weight: float) -> None:
    if not 0 <= weight < float("inf"):
        raise InputError(
            f"{name} {weight} is no weight; use a positive number, such as 10, or 0 for none",
            field=f"model.objective.{name}",
        )


def _check_threshold(name: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise InputError(
            f"{name} {threshold} is not in [0, 1]; Transformer Doctor uses 0.15",
            field=f"model.objective.{name}",
        )
