"""Multi-head self-attention: normalize(sharpness q k^T / sqrt(e) + bias) v.

Prompts are more keys and values, before those of the tokens: [k_m; k], [v_m; v] (`prompts.py`).

Axis letters: b images, h heads, n tokens, m prompts, k keys (n or m + n), d channels of a token,
e channels of a head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitlab.encoders.cls_specialization import Routed
from vitlab.encoders.entmax.attention import entmax_attention
from vitlab.encoders.entmax.normalizer import Normalizer, NormalizerName, get_normalizer
from vitlab.encoders.hooks import HookPoint
from vitlab.encoders.locality import GaussianBias
from vitlab.encoders.prompts import PromptKV
from vitlab.encoders.tokens import Grid


class Attention(Routed):
    """Self-attention of several heads, with timm's parameter names.

    `embed_dim` is a multiple of `num_heads`; the `blocks` of the normalizer are ignored.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, normalizer: NormalizerName | Normalizer = "softmax"
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.normalizer = get_normalizer(normalizer)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.weights = HookPoint()
        self.gaug: GaussianBias | None = None  # LocAtViT's name for it

    def forward(
        self, x: Float[Tensor, "b n d"], grid: Grid, extra: PromptKV | None = None
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens attend to each other and to the prompts."""
        q, k, v = self.route("qkv", x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = None if self.gaug is None else self.gaug(q, grid)
        gate = None
        if extra is not None:
            more = self.keys_and_values(extra.tokens).expand(-1, q.shape[0], -1, -1, -1)
            k, v = torch.cat([more[0], k], dim=2), torch.cat([more[1], v], dim=2)
            bias, gate = extra.bias(bias, q), extra.gate(x.shape[1])
        mixed = self.interact(q, k, v, bias, gate)
        return self.route("proj", mixed.transpose(1, 2).flatten(2))

    def keys_and_values(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "2 b h m e"]:
        """Return keys and values of prompts, by the weights of the patches; no queries."""
        d = tokens.shape[2]
        both = F.linear(tokens, self.qkv.weight[d:], self.qkv.bias[d:])
        return both.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def interact(
        self,
        q: Float[Tensor, "b h n e"],
        k: Float[Tensor, "b h k e"],
        v: Float[Tensor, "b h k e"],
        bias: Float[Tensor, "#b #h n k"] | None,
        gate: Bool[Tensor, "#b 1 n k"] | None = None,
    ) -> Float[Tensor, "b h n e"]:
        """Mix the values by the normalized scores, of which a gate sets some to 0 thereafter."""
        if self.normalizer.sharpness != 1:
            q = q * self.normalizer.sharpness
        if gate is None and not self.weights.hooks:
            # on a CPU in half precision the fused kernel is the slower one: forward and backward of
            # (64, 2, 37, 64) in bf16 took 27 ms on one core, the plain products 2 ms (torch 2.13)
            slow = q.device.type == "cpu" and q.dtype not in (torch.float32, torch.float64)
            if self.normalizer.alpha == 1 and not slow:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            if self.normalizer.alpha == 1.5 and q.shape == k.shape:
                return entmax_attention(q, k, v, bias)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        weights = self.normalizer(scores)
        if gate is not None:
            weights = weights * gate
        return self.weights(weights) @ v
