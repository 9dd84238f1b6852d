"""Attention and similarity of one token to the patches, as images.

Axis letters: p patches, d width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.tokens import Grid
from vitlab.visualization.colors import ATTENTION, ZERO, apply_colormap
from vitlab.visualization.grid import ColorBar, Key


def attention_image(attention: Float[Tensor, " p"], grid: Grid) -> Float[Tensor, "3 _ _"]:
    """Return attention over the patches, the largest weight brightest, exact zeros marked."""
    values = attention.unflatten(0, grid)
    return apply_colormap(values, ATTENTION, 0.0, float(values.max()), values == 0)


def attention_keys(shown: Sequence[Tensor]) -> list[Key | ColorBar]:
    """Return the legend of attention images; zeros where there are any."""
    keys: list[Key | ColorBar] = [ColorBar(ATTENTION, "0", "largest weight of each map")]
    if any((each == 0).any() for each in shown):
        keys.append((ZERO, "exactly 0"))
    return keys


def attention_note(attention: Float[Tensor, " p"]) -> str:
    """Return the largest weight, and the share of exact zeros if there are any."""
    zeros = 100 * float((attention == 0).float().mean())
    largest = f"max {100 * float(attention.max()):.1f} %"
    return f"{largest}, {zeros:.0f} % are 0" if zeros else largest


def patch_similarity(patches: Float[Tensor, "p d"], index: int) -> Float[Tensor, " p"]:
    """Return the cosine of each patch with one of them; 0 for features that are 0."""
    unit = F.normalize(patches.double().cpu(), dim=1)
    return torch.clamp(unit @ unit[index], -1, 1).float()
