"""Colors that color-blind readers can tell apart, and numbers as colors.

Axis letters: h, w rows and columns of a map.
"""

import matplotlib
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlab.data.datasets.voc import palette

Color = tuple[float, float, float]  # red, green, blue in [0, 1]

# Okabe and Ito's, then gray; the lighter ones first, which touch each other in pictures of parts
CODES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
# the same for lines, the darker ones first, which are thin on white
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ATTENTION, SIMILARITY = "magma", "cividis"  # from dark to light, in steps that look equal
NOTHING: Color = (0.62, 0.78, 0.88)  # of exact zeros: a color that is not in magma


def rgb(code: str) -> Color:
    """Return a color of the form #RRGGBB."""
    red, green, blue = (int(code[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def categorical_colors(count: int) -> list[Color]:
    """Return a color for each of several categories: Okabe and Ito's where eight suffice."""
    if count <= len(CODES):
        return [rgb(code) for code in CODES[:count]]
    steps = torch.linspace(0, 1, count).tolist()
    return [matplotlib.colormaps["viridis"](step)[:3] for step in steps]


def shaded(
    values: Float[Tensor, "h w"],
    name: str,
    low: float,
    high: float,
    nothing: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, "3 h w"]:
    """Return a map in the colors of matplotlib's map of that name.

    Args:
        values: of the map; outside the range they have the color of its end.
        name: of the colors.
        low: value of the first color.
        high: value of the last.
        nothing: what gets the color `NOTHING` instead.
    """
    steps = (values.cpu().double() - low) / max(high - low, 1e-12)
    painted = torch.from_numpy(matplotlib.colormaps[name](steps.numpy())[..., :3]).float()
    if nothing is not None:
        painted[nothing.cpu()] = torch.tensor(NOTHING)
    return painted.permute(2, 0, 1)


def indexed(
    labels: Int[Tensor, "h w"] | UInt8[Tensor, "h w"], colors: list[Color] | None = None
) -> Float[Tensor, "3 h w"]:
    """Return a map of indices in these colors, by default those of VOC's palette."""
    table = torch.from_numpy(palette()).float() / 255 if colors is None else torch.tensor(colors)
    return table[labels.cpu().long()].permute(2, 0, 1)
