"""Terms of decision-stream calibration: settings and losses.

Reconstructed, see docs/calibration.md: arXiv:2304.04354 after Transformer Doctor (NeurIPS 2024).

Axis letters: b images, p patches, n tokens, d width, m dimensions of a feature, k patches or
dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlab import distributed
from vitlab.encoders.tokens import split_at
from vitlab.errors import check_fields
from vitlab.objectives.calibration.relevance import Feature
from vitlab.precision import at_least_fp32


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
        _check_ranges(self, "model.objective.tokens.", "weight", "foreground_weight")
        others = (self.layers, self.threshold, self.foreground)
        problems = {
            "weight": (
                not self.active and others != ("last", 0.15, "derived"),
                "turns the term off, and layers, threshold and foreground would be ignored; set "
                "it, for example to 10, or leave them out",
            ),
            "threshold": (
                self.foreground == "masks" and self.threshold != 0.15,
                "would be ignored, as the foreground is that of the masks; leave it out, or set "
                "foreground derived",
            ),
        }
        check_fields(self, "model.objective.tokens.", problems)

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
        _check_ranges(self, "model.objective.dimensions.", "weight")
        others = (self.feature, self.threshold, self.allow_unlearned)
        ignored = not self.weight and others != ("hidden", 0.15, False)
        message = "turns the term off, and its settings would be ignored; set it, for example to 10"
        check_fields(self, "model.objective.dimensions.", {"weight": (ignored, message)})


def background_loss(
    relevance: Float[Tensor, "b p"], foreground: Bool[Tensor, "b p"], known: Bool[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return L_bg of a block: the sum of the background's relevance, a mean over known images.

    Those are the images of all ranks whose foreground is known; the others add nothing.
    """
    background = ~foreground & known[:, None]
    return (relevance * background).sum() / _mean_count(known.sum(), relevance)


def foreground_loss(
    before: Float[Tensor, "b n d"], after: Float[Tensor, "b n d"], foreground: Bool[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Return L_fg of a block: the mean of 1 - cos between its patches before and after."""
    change = 1 - F.cosine_similarity(at_least_fp32(before), at_least_fp32(after), dim=-1)
    prefix = change.shape[1] - foreground.shape[1]
    patches = split_at(change[..., None], prefix)[1][..., 0]
    return (patches * foreground).sum() / _mean_count(foreground.sum(), patches)


def dimension_loss(relevance: Float[Tensor, "b m"], mask: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Return L_dim: the sum of the relevance of dimensions outside the mask, a mean over images."""
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


def _check_ranges(term: TokenTerm | DimensionTerm, prefix: str, *weights: str) -> None:
    no_weight = "is no weight; use a positive number, such as 10, or 0 for none"
    problems = {name: (not 0 <= getattr(term, name) < math.inf, no_weight) for name in weights}
    outside = not 0 <= term.threshold <= 1
    problems["threshold"] = (outside, "is not in [0, 1]; Transformer Doctor uses 0.15")
    check_fields(term, prefix, problems)
