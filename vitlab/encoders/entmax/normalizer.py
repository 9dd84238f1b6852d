"""Attention normalizer: the entmax family from softmax to sparsemax.

entmax_alpha (arXiv:1905.05702) is softmax at alpha 1 and sparsemax at alpha 2 (arXiv:1602.02068).
Sparse weights are also sharper: `sharpness` alone is the control that separates the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.entmax.operator import entmax
from vitlab.errors import InputError, check_fields

NormalizerName = Literal["softmax", "entmax15", "sparsemax"]


@dataclass(frozen=True)
class Normalizer:
    """entmax_alpha(sharpness q k^T / sqrt(e) + bias) in some blocks, softmax in the others.

    Args:
        alpha: 1 for softmax to 2 for sparsemax; weights can be exactly zero above 1.
        sharpness: factor on the products of queries and keys; a bias is added unscaled.
        blocks: numbers of the blocks that use it, from 0; empty for all.
    """

    alpha: float = 1.5
    sharpness: float = 1.0
    blocks: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))  # a list in JSON
        problems = {
            "alpha": (
                not 1 <= self.alpha <= 2,
                "is not in [1, 2]; give 1 (softmax), 1.5 (entmax), 2 (sparsemax) or between",
            ),
            "sharpness": (
                not 0 < self.sharpness < math.inf,
                "is not a positive number; give 1 for none, 2 for scores twice as large",
            ),
            "blocks": (
                bool(self.blocks) and self.alpha == self.sharpness == 1,
                "would have softmax, as all others; leave blocks out, or give alpha above 1 or "
                "another sharpness",
            ),
        }
        check_fields(self, "normalizer.", problems)

    def __call__(self, scores: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """Return the weights of each row of scores; `sharpness` is applied by the caller."""
        return scores.softmax(dim=-1) if self.alpha == 1 else entmax(scores, self.alpha)

    def for_block(self, block: int, depth: int) -> "Normalizer":
        """Return the normalizer of one block of an encoder of that depth.

        Raises:
            InputError: a number in `blocks` is not one of a block.
        """
        unknown = not all(0 <= each < depth for each in self.blocks)
        message = f"are not blocks of an encoder of {depth}; give numbers from 0 to {depth - 1}"
        check_fields(self, "normalizer.", {"blocks": (unknown, message)})
        applies = not self.blocks or block in self.blocks
        return Normalizer(self.alpha, self.sharpness) if applies else SOFTMAX


SOFTMAX = Normalizer(alpha=1.0)
NORMALIZERS = {"softmax": SOFTMAX, "entmax15": Normalizer(1.5), "sparsemax": Normalizer(2.0)}


def get_normalizer(normalizer: NormalizerName | Normalizer) -> Normalizer:
    """Return the normalizer of that name; a `Normalizer` is returned as it is.

    Raises:
        InputError: the name is unknown.
    """
    if isinstance(normalizer, Normalizer):
        return normalizer
    if normalizer not in NORMALIZERS:
        raise InputError(
            f"normalizer {normalizer!r} is unknown; choose {', '.join(NORMALIZERS)}, or give alpha "
            "as Normalizer(alpha=...)",
            field="normalizer",
        )
    return NORMALIZERS[normalizer]
