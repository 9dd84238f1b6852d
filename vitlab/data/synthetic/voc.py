"""VOC 2012 in miniature: still lifes, with a void rim around each object of a mask."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vitlab.data.datasets.voc import palette
from vitlab.data.synthetic.drawing.canvas import Canvas, develop
from vitlab.data.synthetic.drawing.scenes import backdrop, still_life
from vitlab.data.synthetic.images import DrawingTask, random_size, save_jpeg, save_png
from vitlab.option_types import Amounts

VOC_IDS = (1, 2, 4, 5, 6, 7, 9, 11, 14, 16, 19, 20)  # of KINDS, in their order


def draw_image(task: DrawingTask, rng: np.random.Generator) -> None:
    """Draw and write one image and its mask."""
    canvas = backdrop(rng, *random_size(rng, 176, 224))
    still_life(canvas, rng, VOC_IDS)
    name = _number(task.split, task.index)
    save_jpeg(task.root / "JPEGImages" / f"{name}.jpg", develop(canvas, rng), rng)
    mask = canvas.labels.copy()
    mask[_rims(canvas)] = 255
    save_png(task.root / "SegmentationClass" / f"{name}.png", mask, palette())


def _rims(canvas: Canvas) -> NDArray[np.bool_]:
    """Where things meet or end: a line of two pixels, one on each side."""
    block = np.ones((3, 3), np.uint8)
    return cv2.dilate(canvas.things, block) != cv2.erode(canvas.things, block)


def _number(split: str, index: int) -> str:
    return f"2012_{index + 1 + (500_000 if split == 'val' else 0):06d}"


def write_lists(root: Path, amounts: Amounts) -> None:
    """The numbers of the images of each split."""
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    train, val = (
        [f"{_number(split, index)}\n" for index in range(getattr(amounts, f"voc_{split}"))]
        for split in ("train", "val")
    )
    for name, numbers in {"train": train, "val": val, "trainval": train + val}.items():
        (folder / f"{name}.txt").write_text("".join(numbers))
