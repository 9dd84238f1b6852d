"""VOC 2012 in miniature: still lifes, with a void rim around each object of a mask."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vitlab.data.synthetic.drawing.canvas import Canvas, develop
from vitlab.data.synthetic.drawing.scenes import backdrop, still_life
from vitlab.data.synthetic.pictures import random_size, save_jpeg, save_png
from vitlab.data.synthetic.task import Amounts, Task, split_tasks
from vitlab.data.voc import palette

VOC_IDS = (1, 2, 4, 5, 7, 9, 11, 14, 16, 20)  # of KINDS, in their order


def tasks(root: Path, seed: int, amounts: Amounts) -> Iterator[Task]:
    """Every picture of the set, whose folder is `root`."""
    return split_tasks(_draw_voc, root, seed, amounts.voc_train, amounts.voc_val)


def _draw_voc(task: Task, rng: np.random.Generator) -> None:
    canvas = backdrop(rng, *random_size(rng, 128, 192))
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
    train = [_number("train", index) for index in range(amounts.voc_train)]
    val = [_number("val", index) for index in range(amounts.voc_val)]
    for name, numbers in {"train": train, "val": val, "trainval": train + val}.items():
        (folder / f"{name}.txt").write_text("".join(f"{number}\n" for number in numbers))
