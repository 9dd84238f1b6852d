"""A learned Gaussian that favors near patches, and attention among the final tokens.

"Locality-Attending Vision Transformer" (LocAtViT, arXiv:2603.04892): GAug and PRR. The predictors
and their names are those of the authors' code, whose `log_` prefixes are misnomers.

Axis letters: b images, h heads, n tokens, p patches, e channels of a head.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import Grid, State, Tokens, prefix_length


@dataclass(frozen=True)
class Locality:
    """Locality of the attention; "none" and no refinement is the plain encoder.

    Args:
        kind: "gaussian" adds alpha * exp(-distance / variance) to the logits of patches, with
            alpha and variance predicted from each query.
        refine: whether [CLS] is read after one attention among the final tokens (PRR), which gives
            the last block's patches a gradient. Patch features are returned without it.
        resolution: how the variance follows a patch grid other than the constructed one: "linear"
            in its short side as the authors do, or "quadratic", which keeps its share of the image.
    """

    kind: Literal["none", "gaussian"] = "none"
    refine: bool = False
    resolution: Literal["linear", "quadratic"] = "linear"


class GaussianBias(nn.Module):
    """S(p, t) = alpha(p) exp(-sum_m D_m(p, t) / (var_m(p) + eps)) for patches p, t; 0 elsewhere.

    m runs over rows and columns; D_m is half the squared distance in patches. Both predictors are
    shared by the heads of a layer.

    Args:
        channels: channels of a head.
        grid: patch grid the encoder is made for, at least 2 x 2.
        resolution: see `Locality`.
    """

    def __init__(self, channels: int, grid: Grid, resolution: Literal["linear", "quadratic"]):
        super().__init__()
        self.log_var = nn.Linear(channels, 2)
        self.log_alpha = nn.Linear(channels, 1)
        for layer in (self.log_var, self.log_alpha):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.grid, self.resolution = grid, resolution
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
        prefix = prefix_length(q.shape[2], grid)
        with torch.autocast(q.device.type, enabled=False):
            x = q[:, :, prefix:].to(torch.promote_types(q.dtype, torch.float32))
            alpha, variance = self.predict(x, grid)
            near = [
                torch.exp(-self.distance(axis, grid, x) / (variance[..., axis, None]))
                for axis in (0, 1)
            ]
            bias = ((alpha * near[0])[..., :, None] * near[1][..., None, :]).flatten(-2)
        return F.pad(bias, (prefix, 0, prefix, 0)).to(q.dtype)

    def predict(
        self, q: Float[Tensor, "b h p e"], grid: Grid
    ) -> tuple[Float[Tensor, "b h p 1"], Float[Tensor, "b h p 2"]]:
        """Return alpha and the two variances of each query, in logits and in patches squared."""
        c = self.largest_variance
        # shifted so that a pre-activation of 0 means a variance of 1
        variance = c * torch.sigmoid(self.log_var(q) - math.log(c - 1))
        if grid != self.grid:
            ratio = [min(grid) / min(self.grid)] * 2
            if self.resolution == "quadratic":
                ratio = [(new / old) ** 2 for new, old in zip(grid, self.grid, strict=True)]
            variance = variance * variance.new_tensor(ratio)
        return F.softplus(self.log_alpha(q)), variance + self.epsilon

    def distance(self, axis: int, grid: Grid, like: Tensor) -> Float[Tensor, "p size"]:
        """Half the squared distance of each patch to each row (axis 0) or column (axis 1)."""
        place = torch.arange(grid[axis], device=like.device, dtype=like.dtype)
        table = (0.5 * (place[:, None] - place).square()).clamp_max(self.largest_distance)
        rows, columns = grid
        return table.repeat_interleave(columns, 0) if axis == 0 else table.repeat(rows, 1)


def refine(state: State, heads: int) -> Tokens:
    """Read [CLS] after one attention among all final tokens, without weights (PRR).

    X+_h = softmax(X_h X_h^T / sqrt(e)) X_h in each head's channels; patches are left as they are.
    """
    tokens = state.tokens()
    x = state.x.unflatten(2, (heads, -1)).transpose(1, 2)
    q = tokens.cls.unflatten(1, (heads, 1, -1))
    cls = F.scaled_dot_product_attention(q, x, x).flatten(1)
    return Tokens(cls, tokens.registers, tokens.patches, tokens.grid)
