"""[CLS] specialization: separate weights for [CLS] and patches in token-wise layers.

"Revisiting [CLS] and Patch Token Interaction in Vision Transformers" (arXiv:2602.08626).
Attention itself stays joint: f(X)_t = f(X_t; theta_role(t)).
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.encoders.tokens import split_at
from vitlab.errors import check_fields

LAYERS = {
    "norm": ("norm1", "norm2", "ls1", "ls2"),
    "qkv": ("attn.qkv",),
    "proj": ("attn.proj",),
    "mlp": ("mlp",),
}


@dataclass(frozen=True)
class CLSSpecialization:
    """Which layers have weights of their own for [CLS]; each number a fraction of the depth.

    A fraction f splits the first f * depth blocks, to the nearest block, a half up. The paper's
    recipe is norm 1, qkv 1/3 (0.333: 4 of 12, 8 of 24 blocks). All zero is the plain encoder.

    Args:
        norm: both LayerNorms and, where the encoder has it, both LayerScales.
        qkv: the projection to queries, keys and values.
        proj: the projection after attention (an ablation).
        mlp: the MLP (an ablation).
        final_norm: whether the norm after the last block is split as well (an ablation).
        registers: whose weights the registers use.
        init: "clone" initializes the copies with the plain layers, so that the encoder equals the
            plain one; "random" draws them. Norms and LayerScales start alike in either case.
    """

    norm: float = 0.0
    qkv: float = 0.0
    proj: float = 0.0
    mlp: float = 0.0
    final_norm: bool = False
    registers: Literal["patches", "cls"] = "patches"
    init: Literal["clone", "random"] = "clone"

    def __post_init__(self) -> None:
        outside = "is not a fraction of the depth; give 0 (shared) to 1 (split in every block)"
        problems = {name: (not 0 <= getattr(self, name) <= 1, outside) for name in LAYERS}
        problems["init"] = (
            self.init == "random" and not self.qkv + self.proj + self.mlp,
            "has no effect where no layer with random weights is split; leave it out, or split "
            "qkv, proj or mlp",
        )
        check_fields(self, "cls_specialization.", problems)

    def blocks(self, name: str, depth: int) -> int:
        """Return how many blocks of an encoder of that depth have a kind of `LAYERS` split."""
        return int(getattr(self, name) * depth + 0.5)

    def check(self, depth: int) -> None:
        """Refuse fractions that are less than half a block of an encoder of that depth.

        Raises:
            InputError: a fraction is so small, and would be ignored.
        """
        least = math.ceil(500 / depth) / 1000
        small = f"of {depth} blocks rounds to none; give at least {least}, or 0 for shared"
        wrong = {name: getattr(self, name) > 0 and not self.blocks(name, depth) for name in LAYERS}
        check_fields(self, "cls_specialization.", {name: (wrong[name], small) for name in LAYERS})

    def splits(self, block: int, depth: int) -> tuple[str, ...]:
        """Return the names of the layers that are split in a block of an encoder of that depth."""
        split = [LAYERS[name] for name in LAYERS if block < self.blocks(name, depth)]
        return tuple(layer for layers in split for layer in layers)


class Routed(nn.Module):
    """A module whose token-wise layers may have a copy for [CLS].

    The layer keeps its name and serves the patches, so a plain checkpoint names the same tensors;
    the copy has the suffix `_cls`. It is a clone, so that a split module computes the same as the
    plain one, and no random number is drawn.
    """

    global_tokens = 1  # tokens at the start of the sequence that use the copies

    def split(self, name: str, global_tokens: int) -> nn.Module:
        """Give the layer of that name a copy for the first tokens, and return the copy."""
        self.global_tokens = global_tokens
        copied = copy.deepcopy(getattr(self, name))
        self.add_module(f"{name}_cls", copied)
        return copied

    def route(self, name: str, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """Apply the layer of that name, or the layer and its copy, each to its own tokens."""
        layer, own = getattr(self, name), getattr(self, f"{name}_cls", None)
        if own is None:
            return layer(x)
        first, rest = split_at(x, self.global_tokens)
        return torch.cat([own(first), layer(rest)], dim=1)
