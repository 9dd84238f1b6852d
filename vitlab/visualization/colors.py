"""Colors that color-blind readers can tell apart, and maps of numbers or classes in colors.

Axis letters: h, w rows and columns of a map.
"""

import matplotlib
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlab.data.datasets.voc import palette

Color = tuple[float, float, float]  # red, green, blue in [0, 1]

# Okabe and Ito's, then gray; the lighter ones first, as areas that touch each other
CODES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
# the darker ones first, as thin lines on white
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ATTENTION, SIMILARITY = "magma", "cividis"  # perceptually uniform
ZERO: Color = (0.62, 0.78, 0.88)  # of exact zeros: a color that is not in magma


def rgb(code: str) -> Color:
    """Return a color of the form #RRGGBB."""
    return matplotlib.colors.to_rgb(code)


def categorical_colors(count: int) -> list[Color]:
    """Return a color for each of several categories: Okabe and Ito's where eight suffice."""
    if count <= len(CODES):
        return [rgb(code) for code in CODES[:count]]
    steps = torch.linspace(0, 1, count).tolist()
    return [matplotlib.colormaps["viridis"](step)[:3] for step in steps]


def apply_colormap(
    values: Float[Tensor, "h w"],
    name: str,
    low: float,
    high: float,
    zero: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, "3 h w"]:
    """Return a map in the colors of matplotlib's map of that name, from `low` to `high`.

    Values outside the range have the color of its end; cells of `zero` get the color `ZERO`.
    """
    steps = (values.cpu().double() - low) / max(high - low, 1e-12)
    colors = torch.from_numpy(matplotlib.colormaps[name](steps.numpy())[..., :3]).float()
    if zero is not None:
        colors[zero.cpu()] = torch.tensor(ZERO)
    return colors.permute(2, 0, 1)


def apply_palette(
    labels: Int[Tensor, "h w"] | UInt8[Tensor, "h w"], colors: list[Color] | None = None
) -> Float[Tensor, "3 h w"]:
    """Return a map of indices in these colors, by default those of VOC's palette."""
    table = torch.from_numpy(palette()).float() / 255 if colors is None else torch.tensor(colors)
    return table[labels.cpu().long()].permute(2, 0, 1)
