"""Colors that color-blind readers can tell apart, maps of numbers or classes in colors, legends.

Axis letters: h, w rows and columns of a map; p patches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.colors import to_rgb
from torch import Tensor

from vitlab.data.datasets.voc import palette
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders.tokens import Grid

Color = tuple[float, float, float]  # red, green, blue in [0, 1]
Mask = Int[Tensor, "_ _"] | UInt8[Tensor, "_ _"]

# Okabe and Ito's, then gray; the lighter ones first, as areas that touch each other
CODES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
# the darker ones first, as thin lines on white
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ATTENTION, SIMILARITY = "magma", "cividis"  # perceptually uniform
# attention above 0 begins at a violet, so that exact zeros, black, are darker than all of it: what
# is bright is mass, in print without color too
ZERO, ABOVE_ZERO = (0.0, 0.0, 0.0), 0.25
MAX_CLASSES = 40  # in a legend, the most frequent


class Key(NamedTuple):
    """An entry of a legend: a color and its meaning, or a color map and that of its ends.

    Attributes:
        color: the color, or the name of a color map of matplotlib, of attention from `ABOVE_ZERO`.
        text: its meaning, of a color map that of the last color.
        low: meaning of a color map's first color.
    """

    color: Color | str
    text: str
    low: str = ""


def categorical_colors(count: int) -> list[Color]:
    """Return a color for each of several categories: Okabe and Ito's where eight suffice."""
    if count <= len(CODES):
        return [to_rgb(code) for code in CODES[:count]]
    steps = torch.linspace(0, 1, count).tolist()
    return [matplotlib.colormaps["viridis"](step)[:3] for step in steps]


def apply_colormap(
    values: Float[Tensor, "h w"], name: str, low: float, high: float
) -> Float[Tensor, "3 h w"]:
    """Return a map in the colors of matplotlib's map of that name, from `low` to `high`."""
    steps = (values.cpu().double() - low) / max(high - low, 1e-12)
    colors = torch.from_numpy(matplotlib.colormaps[name](steps.numpy())[..., :3])
    return colors.float().permute(2, 0, 1)


def apply_palette(labels: Mask, colors: list[Color] | None = None) -> Float[Tensor, "3 _ _"]:
    """Return a map of indices in these colors, by default those of VOC's palette."""
    table = torch.from_numpy(palette()).float() / 255 if colors is None else torch.tensor(colors)
    return table[labels.cpu().long()].permute(2, 0, 1)


def attention_image(attention: Float[Tensor, " p"], grid: Grid) -> Float[Tensor, "3 _ _"]:
    """Return attention over the patches, the largest weight brightest, exact zeros black."""
    values = attention.unflatten(0, grid).cpu()
    top = float(values.max())
    shown = apply_colormap(values, ATTENTION, -top * ABOVE_ZERO / (1 - ABOVE_ZERO), top)
    return torch.where(values == 0, torch.tensor(ZERO)[:, None, None], shown)


def attention_keys(shown: Sequence[Tensor]) -> list[Key]:
    """Return the legend of attention images, each up to its own maximum; zeros if there are any."""
    zeros = any((each == 0).any() for each in shown)
    bar = Key(ATTENTION, "max", "0")
    return [Key(ZERO, "exactly 0"), bar] if zeros else [bar]


def class_keys(masks: Sequence[Mask], classes: Sequence[str]) -> list[Key]:
    """Return color and name of the classes in masks, the most frequent where they are many."""
    pixels = torch.cat([mask.cpu().flatten().long() for mask in masks])
    count = pixels.bincount(minlength=IGNORE_INDEX + 1)[: len(classes)]
    present = [int(index) for index in count.argsort(descending=True, stable=True) if count[index]]
    kept = sorted(present[:MAX_CLASSES])
    keys = [Key(tuple(palette()[index] / 255.0), classes[index]) for index in kept]
    left_out = len(present) - len(kept)
    return keys + [Key((1.0, 1.0, 1.0), f"and {left_out} more")] * (left_out > 0)
