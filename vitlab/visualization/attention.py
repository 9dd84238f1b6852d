"""What one token attends to: [CLS] or a patch, by head or on the mean of heads.

Axis letters: p patches.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.tokens import Grid
from vitlab.visualization.colors import ATTENTION, NOTHING, shaded
from vitlab.visualization.grid import Key, Scale


def attention_map(attention: Float[Tensor, " p"], grid: Grid) -> Float[Tensor, "3 _ _"]:
    """Return attention where the patches are, its largest weight brightest, exact zeros marked."""
    values = attention.unflatten(0, grid)
    return shaded(values, ATTENTION, 0.0, float(values.max()), values == 0)


def attention_keys(shown: Sequence[Tensor]) -> list[Key | Scale]:
    """Return what the colors of such maps mean; zeros where there are any."""
    keys: list[Key | Scale] = [Scale(ATTENTION, "0", "largest weight of each map")]
    if any((each == 0).any() for each in shown):
        keys.append((NOTHING, "exactly 0"))
    return keys


def sparsity(attention: Float[Tensor, " p"]) -> str:
    """Return the largest weight, and the share of exact zeros if there are any, in words."""
    zeros = 100 * float((attention == 0).float().mean())
    largest = f"max {100 * float(attention.max()):.1f} %"
    return f"{largest}, {zeros:.0f} % are 0" if zeros else largest
