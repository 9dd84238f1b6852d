"""What makes attention weights of scores: softmax, entmax and sparsemax are one family.

entmax_alpha (arXiv:1905.05702) is softmax at alpha 1, 1.5-entmax between, sparsemax at 2
(arXiv:1602.02068). Sparser weights are sharper ones too: `sharpness` tells the two apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.entmax.operator import entmax

NormalizerName = Literal["softmax", "entmax15", "sparsemax"]


@dataclass(frozen=True)
class Normalizer:
    """entmax_alpha(sharpness q k^T / sqrt(e) + bias) in some blocks, softmax in the others.

    Args:
        alpha: 1 for softmax to 2 for sparsemax; weights can be exactly zero above 1.
        sharpness: factor on the products of queries and keys; a bias is added as it is.
        blocks: numbers of the blocks that have it, counted from 0; empty for all.
    """

    alpha: float = 1.5
    sharpness: float = 1.0
    blocks: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Refuse what is no member of the family."""
        object.__setattr__(self, "blocks", tuple(self.blocks))  # a list, where JSON was read
        if not 1 <= self.alpha <= 2:
            raise ValueError(
                f"normalizer.alpha {self.alpha} is not in [1, 2]; give 1 (softmax), 1.5 (entmax) "
                "or 2 (sparsemax), or a number between"
            )
        if not 0 < self.sharpness < math.inf:
            raise ValueError(
                f"normalizer.sharpness {self.sharpness} is not a positive number; give 1 for none, "
                "2 for scores twice as large"
            )
        if self.blocks and self.alpha == self.sharpness == 1:
            raise ValueError(
                f"normalizer.blocks {list(self.blocks)} are asked to have softmax, which all have; "
                "leave blocks out, or give alpha above 1 or another sharpness"
            )

    def __call__(self, scores: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """Return the weights of each row of scores, which are sharpened already."""
        return scores.softmax(dim=-1) if self.alpha == 1 else entmax(scores, self.alpha)

    def for_block(self, block: int, depth: int) -> "Normalizer":
        """Return the normalizer of this block of so many.

        Raises:
            ValueError: there is no block of a number in `blocks`.
        """
        if not all(0 <= each < depth for each in self.blocks):
            raise ValueError(
                f"normalizer.blocks {list(self.blocks)} are asked of an encoder of {depth} blocks; "
                f"give numbers from 0 to {depth - 1}, or leave blocks out for all"
            )
        chosen = not self.blocks or block in self.blocks
        return Normalizer(self.alpha, self.sharpness) if chosen else SOFTMAX


SOFTMAX = Normalizer(alpha=1.0)
NORMALIZERS = {"softmax": SOFTMAX, "entmax15": Normalizer(1.5), "sparsemax": Normalizer(2.0)}


def get_normalizer(normalizer: NormalizerName | Normalizer) -> Normalizer:
    """Return the normalizer of that name, or the one that is given itself.

    Raises:
        ValueError: there is no such name.
    """
    if isinstance(normalizer, Normalizer):
        return normalizer
    if normalizer not in NORMALIZERS:
        raise ValueError(
            f"normalizer {normalizer!r} is unknown; choose {', '.join(NORMALIZERS)}, or give alpha "
            "as Normalizer(alpha=...)"
        )
    return NORMALIZERS[normalizer]
