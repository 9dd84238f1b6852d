"""What to draw: the amounts of a collection, and one task for each picture."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Amounts:
    """How many pictures to draw.

    Attributes:
        imagenet_train: training images of each of the ten classes.
        imagenet_val: validation images of each of the ten classes.
        voc_train: images in train.txt.
        voc_val: images in val.txt.
        ade_train: images in training.
        ade_val: images in validation.
        cityscapes_train: images in train, over three cities.
        cityscapes_val: images in val, of another city.
    """

    imagenet_train: int = 150
    imagenet_val: int = 30
    voc_train: int = 300
    voc_val: int = 150
    ade_train: int = 200
    ade_val: int = 80
    cityscapes_train: int = 60
    cityscapes_val: int = 24

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if count < 1:
                raise ValueError(f"{name} is {count}; draw at least 1, so that no split is empty")


@dataclass(frozen=True)
class Task:
    """One picture to draw: everything a worker must know.

    Attributes:
        draw: the function that draws and writes it.
        root: folder of the set.
        seed: of the whole collection.
        split: "train" or "val".
        index: number in the split, from 0; all classes of ImageNet take turns.
    """

    draw: Callable[["Task", np.random.Generator], None]
    root: Path
    seed: int
    split: str
    index: int

    def run(self) -> None:
        """Draw and write; nothing outside this task changes a single byte of the result."""
        # the name of the function is part of the seed: a new name alters every picture
        key = f"{self.draw.__name__} {self.split}".encode()
        self.draw(self, np.random.default_rng([self.seed, zlib.crc32(key), self.index]))


def split_tasks(
    draw: Callable[[Task, np.random.Generator], None], root: Path, seed: int, train: int, val: int
) -> Iterator[Task]:
    """As many tasks for each split as `train` and `val` say; `root` is that of the one set."""
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            yield Task(draw, root, seed, split, index)
