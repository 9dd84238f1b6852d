"""Locality: a learned Gaussian attention bias (GAug) and patch refinement (PRR).

"Locality-Attending Vision Transformer" (LocAtViT, arXiv:2603.04892). The predictors and their names
are those of the authors' code, whose `log_` prefixes are misnomers. The kinds besides "gaussian",
the boosted prefix and the warm start are ours, as controls.

Axis letters: b images, h heads, n tokens, p patches, e channels of a head.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Grid, prefix_length, split_at
from vitlab.errors import InputError, check_fields
from vitlab.precision import at_least_fp32

Kind = Literal["none", "gaussian", "constant", "fixed", "uniform"]


@dataclass(frozen=True)
class Locality:
    """Locality of the attention; "none" and no refinement is the plain encoder.

    Args:
        kind: "gaussian" adds alpha * exp(-distance / variance) to the logits of patches, alpha and
            variance predicted from each query. Controls: "constant" learns alpha and variance of a
            layer, the same for all queries; "fixed" learns nothing (alpha ln 2, variance 1, the
            initial values of all kinds); "uniform" has alpha of each query and no distance.
        refine: whether [CLS] is read after one attention among the final tokens (PRR), which gives
            the last block's patches a gradient. Patch features are returned without it.
        resolution: how the variance scales with the patch grid: "linear" in its short side as the
            authors do, or "quadratic", which keeps its share of the image.
        boost_prefix: whether [CLS] and registers get alpha as well, so that patches do not gain on
            them.
        init: "authors" for alpha near ln 2; "warm" for alpha 0.0025, to continue from weights
            trained without it.
    """

    kind: Kind = "none"
    refine: bool = False
    resolution: Literal["linear", "quadratic"] = "linear"
    boost_prefix: bool = False
    init: Literal["authors", "warm"] = "authors"

    def __post_init__(self) -> None:
        kind = self.kind
        useless = f"has no effect with kind {kind}; leave it out, or choose gaussian or constant"
        problems = {
            "resolution": (self.resolution != "linear" and kind in ("none", "uniform"), useless),
            "boost_prefix": (self.boost_prefix and kind == "none", useless),
            "init": (self.init != "authors" and kind in ("none", "fixed"), useless),
        }
        check_fields(self, "locality.", problems)


class ConstantPredictor(nn.Module):
    """A predictor whose output is the same for every query: a bias, initially 0.

    Where it is not learned, it is a buffer in no checkpoint.
    """

    def __init__(self, outputs: int, learned: bool):
        super().__init__()
        self.bias: Tensor
        if learned:
            self.bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.register_buffer("bias", torch.zeros(outputs), persistent=False)

    def forward(self, q: Float[Tensor, "*queries e"]) -> Float[Tensor, "*queries k"]:
        """Return the numbers for each query."""
        return self.bias.expand(*q.shape[:-1], -1)


class GaussianBias(nn.Module):
    """S(p, t) = alpha(p) exp(-sum_m D_m(p, t) / (var_m(p) + eps)) for patches p, t; 0 elsewhere.

    m runs over rows and columns; D_m is half the squared distance in patches. Both predictors are
    shared by the heads of a layer. Of kind "uniform" the variance is infinite and the exponential
    1; with `boost_prefix` S is alpha(p) for t in the prefix.

    As in the authors' code, an encoder made for a grid of 32 rows or more has in training one
    kernel for each 2 x 2 patches: of their mean query, between their first patches.

    Raises:
        InputError: the grid has a single patch.
    """

    def __init__(self, channels: int, grid: Grid, locality: Locality):
        super().__init__()
        if max(grid) < 2:
            raise InputError(
                f"locality.kind {locality.kind} needs an encoder of more than one patch; give "
                "encoder.img_size of two patches or more",
                field="locality.kind",
            )
        log_var = predictor(locality, channels, 2)  # drawn for all kinds, so that they share alpha
        self.log_var = None if locality.kind == "uniform" else log_var
        self.log_alpha = predictor(locality, channels, 1)
        if locality.init == "warm":
            with torch.no_grad():
                for parameter in self.log_alpha.parameters():
                    parameter.fill_(-6 if parameter.ndim == 1 else 0)
        self.grid, self.resolution = grid, locality.resolution
        self.boost_prefix = locality.boost_prefix
        self.pooled = grid[0] >= 32  # in training
        longest = max(grid)
        self.largest_variance = float(longest**2)
        self.largest_distance = min(0.5 * (longest - 1) ** 2, 6550.0)
        # the authors' guard against overflow in half precision; kept since it changes the kernel
        self.epsilon = 0.1
        while 0.5 * (longest - 1) ** 2 / self.epsilon**2 > 32500:
            self.epsilon *= 2

    def forward(self, q: Float[Tensor, "b h n e"], grid: Grid) -> Float[Tensor, "b h n n"]:
        """Return what is added to the logits; q before any scaling by sqrt(e).

        The kernel is the product of one factor for rows and one for columns, so it needs
        p (rows + columns) exponentials instead of p^2.
        """
        prefix, stride = prefix_length(q.shape[2], grid), 2 if self.training and self.pooled else 1
        if any(side % stride for side in grid):
            raise InputError(
                "locality has one kernel for 2 x 2 patches in training, as the encoder is made for "
                f"{self.grid[0]} x {self.grid[1]} patches, and an image has {grid[0]} x {grid[1]}; "
                "use image sizes with even numbers of patches",
                field="encoder.img_size",
            )
        with torch.autocast(q.device.type, enabled=False):
            x = at_least_fp32(q[:, :, prefix:])
            rows, columns = (side // stride for side in grid)
            if stride > 1:
                x = x.unflatten(2, (rows, stride, columns, stride)).mean((3, 5)).flatten(2, 3)
            alpha, variance = self.predict(x, grid)
            down, across = (
                torch.exp(
                    -self.distance(axis, (rows, columns), stride, x) / variance[..., axis, None]
                )
                for axis in (0, 1)
            )
            bias = ((alpha * down)[..., :, None] * across[..., None, :]).flatten(-2)
            if stride > 1:
                bias = _enlarged(_enlarged(bias, 2, rows, stride), 3, rows, stride)
                alpha = _enlarged(alpha, 2, rows, stride)
            if self.boost_prefix:
                bias = torch.cat([alpha.expand(-1, -1, -1, prefix), bias], dim=-1)
        return F.pad(bias, (q.shape[2] - bias.shape[-1], 0, prefix, 0)).to(q.dtype)

    def predict(
        self, q: Float[Tensor, "b h p e"], grid: Grid
    ) -> tuple[Float[Tensor, "b h p 1"], Float[Tensor, "b h p 2"]]:
        """Return alpha and the two variances of each query, in logits and in patches squared."""
        alpha = F.softplus(self.log_alpha(q.to(self.log_alpha.bias.dtype)).to(q.dtype))
        if self.log_var is None:
            return alpha, q.new_tensor(math.inf).expand(*q.shape[:-1], 2)
        c = self.largest_variance
        # shifted so that a pre-activation of 0 means a variance of 1
        raw = self.log_var(q.to(self.log_var.bias.dtype)).to(q.dtype)
        variance = c * torch.sigmoid(raw - math.log(c - 1))
        if grid != self.grid:
            ratio = [min(grid) / min(self.grid)] * 2
            if self.resolution == "quadratic":
                ratio = [(new / old) ** 2 for new, old in zip(grid, self.grid, strict=True)]
            variance = variance * variance.new_tensor(ratio)
        return alpha, variance + self.epsilon

    def distance(self, axis: int, grid: Grid, stride: int, like: Tensor) -> Float[Tensor, "p size"]:
        """Half the squared distance of each patch to each row (axis 0) or column (axis 1).

        `grid` has every `stride`-th row and column.
        """
        place = stride * torch.arange(grid[axis], device=like.device, dtype=like.dtype)
        table = (0.5 * (place[:, None] - place).square()).clamp_max(self.largest_distance)
        rows, columns = grid
        return table.repeat_interleave(columns, 0) if axis == 0 else table.repeat(rows, 1)


def _enlarged(x: Tensor, dim: int, rows: int, stride: int) -> Tensor:
    """Return values of cells, row by row along a dimension, at each of stride^2 patches of each."""
    cells = x.unflatten(dim, (rows, -1))
    return (
        cells.repeat_interleave(stride, dim)
        .repeat_interleave(stride, dim + 1)
        .flatten(dim, dim + 1)
    )


def predictor(locality: Locality, channels: int, outputs: int) -> nn.Linear | ConstantPredictor:
    """Return a predictor from the channels of a query to so many numbers, initially near 0."""
    if locality.kind in ("constant", "fixed"):
        return ConstantPredictor(outputs, learned=locality.kind == "constant")
    layer = nn.Linear(channels, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def refined_cls(x: Float[Tensor, "b n d"], num_heads: int) -> Float[Tensor, "b d"]:
    """Return [CLS] after patch refinement (PRR): one attention among all final tokens.

    X+_h = softmax(X_h X_h^T / sqrt(e)) X_h in each head's channels, without weights.
    """
    keys = x.unflatten(2, (num_heads, -1)).transpose(1, 2)
    q = split_at(keys.flatten(0, 1), 1)[0].unflatten(0, (x.shape[0], num_heads))
    return F.scaled_dot_product_attention(q, keys, keys).transpose(1, 2).flatten(1)
