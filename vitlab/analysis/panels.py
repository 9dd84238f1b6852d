"""Sheets of small images with words: titles over the columns, a legend below each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.patches import Patch
from torch import Tensor

Color = tuple[float, float, float]

LEAST, MOST = 160, 320  # pixels of an image's longer edge on the sheet
DOTS = 100  # per inch


@dataclass(frozen=True)
class Column:
    """Images of one kind, one for each row.

    Attributes:
        title: what they show.
        images: in [0, 1], all of one size.
        legend: colors and what they stand for.
    """

    title: str
    images: Sequence[Float[Tensor, "3 _ _"]]
    legend: Sequence[tuple[Color, str]] = field(default=())


def save_sheet(columns: Sequence[Column], out: Path) -> None:
    """Write a sheet as PNG; small images are enlarged without blurring them."""
    rows = len(columns[0].images)
    height, width = columns[0].images[0].shape[1:]
    scale = min(max(LEAST, height, width), MOST) / max(height, width) / DOTS
    lines = max(len(column.legend) for column in columns)
    wide, high = scale * width + 0.12, scale * height + 0.08
    top, bottom = 0.55, 0.18 * lines + 0.1  # inches, for the titles and the legends
    size = (wide * len(columns), top + high * rows + bottom)
    figure, panels = plt.subplots(rows, len(columns), figsize=size, dpi=DOTS, squeeze=False)
    figure.subplots_adjust(
        left=0, right=1, top=1 - top / size[1], bottom=bottom / size[1], wspace=0.05, hspace=0.05
    )
    for place, column in enumerate(columns):
        for panel, image in zip(panels[:, place], column.images, strict=True):
            panel.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            panel.set_axis_off()
        panels[0, place].set_title(column.title, fontsize=10)
        if column.legend:
            panels[-1, place].legend(
                handles=[
                    Patch(facecolor=color, edgecolor="black", label=label)
                    for color, label in column.legend
                ],
                loc="upper center",
                bbox_to_anchor=(0.5, 0.0),
                fontsize=8,
                frameon=False,
                borderaxespad=0.3,
            )
    figure.savefig(out)
    plt.close(figure)
