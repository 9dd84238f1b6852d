"""Cityscapes in miniature: streets, with a number for each person and vehicle."""

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import Cityscapes

from vitlab.data.synthetic.drawing.canvas import Canvas, develop
from vitlab.data.synthetic.drawing.street import Street
from vitlab.data.synthetic.images import DrawingTask, save_png

_CITIES = {"train": ("dotbury", "stripeham", "waveford"), "val": ("checkerton",)}
_COUNTABLE = range(24, 34)  # persons, riders and vehicles: each has an instance number


def draw_image(task: DrawingTask, rng: np.random.Generator) -> None:
    """Draw and write one image and its masks."""
    canvas = Street(rng, height=128, width=256).canvas
    cities = _CITIES[task.split]
    number, place = divmod(task.index, len(cities))
    city = cities[place]
    name = f"{city}_{number // 10:06d}_{number % 10 + 19:06d}"
    save_png(
        task.root / "leftImg8bit" / task.split / city / f"{name}_leftImg8bit.png",
        develop(canvas, rng),
    )
    truth = task.root / "gtFine" / task.split / city
    save_png(truth / f"{name}_gtFine_labelIds.png", canvas.labels)
    save_png(truth / f"{name}_gtFine_instanceIds.png", _instances(canvas))
    colors = np.zeros((256, 4), np.uint8)
    for row in Cityscapes.classes:
        colors[row.id] = (*row.color, 255)
    save_png(truth / f"{name}_gtFine_color.png", colors[canvas.labels])


def _instances(canvas: Canvas) -> NDArray[np.uint16]:
    """The label where a class is not counted, else 1000 * label + number from 0."""
    result = canvas.labels.astype(np.uint16)
    for label in _COUNTABLE:
        numbers = np.unique(canvas.things[canvas.labels == label])
        for number, thing in enumerate(numbers):
            mine = (canvas.things == thing) & (canvas.labels == label)
            result[mine] = 1000 * label + number
    return result
