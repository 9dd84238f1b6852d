"""DINO's projection head.

Axis letters: b rows, d embed_dim, k prototypes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class DINOHeadConfig:
    """Shape of DINO's projection head.

    Args:
        out_dim: prototypes, the classes of the self-distillation.
        hidden_dim: channels of the two hidden layers.
        bottleneck_dim: channels of the normalized layer before the prototypes.
        norm_last_layer: whether prototypes keep length 1; False scores better for ViT-S but can
            destabilize training.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    norm_last_layer: bool = True


class DINOHead(nn.Module):
    """MLP with GELU, L2 normalization, then one weight-normalized linear layer.

    "Emerging Properties in Self-Supervised Vision Transformers" (arXiv:2104.14294).

    Parameter names are those of DINO's own code; `mlp` has its activations at the odd indices.
    """

    def __init__(self, embed_dim: int, config: DINOHeadConfig):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(config.bottleneck_dim, config.out_dim)
        self.last_layer.weight_g.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the logits of the prototypes."""
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class Prototypes(nn.Module):
    """A linear layer without bias whose rows are a direction `weight_v` of length `weight_g`."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        # torch's own initialization: DINO makes this layer after initializing the others
        self.weight_v = nn.Parameter(
            nn.Linear(in_features, out_features, bias=False).weight.detach()
        )
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the inner products with the rows.

        The products are scaled, not the rows: there are fewer of them than weights.
        """
        scale = self.weight_g / self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(x, self.weight_v) * scale.squeeze(1)
