"""ADE20K in miniature: rooms and fields, where stuff is labeled as well as objects."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitlab.data.synthetic.drawing.canvas import develop
from vitlab.data.synthetic.drawing.objects import KINDS
from vitlab.data.synthetic.drawing.scenes import room
from vitlab.data.synthetic.pictures import random_size, save_jpeg, save_png
from vitlab.data.synthetic.task import Amounts, Task, split_tasks

ADE_IDS = (13, 15, 18, 20, 21, 24, 37, 40, 44, 83)  # of KINDS, in their order
ADE_STUFF = {"wall": 1, "sky": 3, "floor": 4, "grass": 10, "water": 22}


def tasks(root: Path, seed: int, amounts: Amounts) -> Iterator[Task]:
    """Every picture of the set, whose folder is `root`."""
    return split_tasks(_draw_ade, root, seed, amounts.ade_train, amounts.ade_val)


def _draw_ade(task: Task, rng: np.random.Generator) -> None:
    canvas = room(rng, *random_size(rng, 128, 192), ADE_STUFF, ADE_IDS)
    name = f"ADE_{task.split}_{task.index + 1:08d}"
    folder = "training" if task.split == "train" else "validation"
    pixels = develop(canvas, rng)
    save_jpeg(task.root / "images" / folder / f"{name}.jpg", pixels, rng)
    save_png(task.root / "annotations" / folder / f"{name}.png", canvas.labels)


def write_tables(root: Path) -> None:
    """The table of the 150 classes, with their frequencies, and a scene for each image."""
    pixels, images = (
        np.zeros(151),
        {"training": np.zeros(151, int), "validation": np.zeros(151, int)},
    )
    scenes = []
    for split, present in images.items():
        for path in sorted((root / "annotations" / split).iterdir()):
            counts = np.bincount(np.asarray(Image.open(path)).ravel(), minlength=151)
            present += counts > 0
            pixels += counts * (split == "training")
            scenes.append(f"{path.stem} {'room' if counts[ADE_STUFF['wall']] else 'field'}\n")
    names = {label: name for name, label in ADE_STUFF.items()}
    names |= {label: kind.name for label, kind in zip(ADE_IDS, KINDS, strict=True)}
    share = pixels / pixels.sum()
    lines = ["Idx\tRatio\tTrain\tVal\tName\n"]
    for i in range(1, 151):
        seen = f"{images['training'][i]}\t{images['validation'][i]}"
        lines.append(f"{i}\t{share[i]:.4f}\t{seen}\t{names.get(i, f'class {i}')}\n")
    (root / "objectInfo150.txt").write_text("".join(lines))
    (root / "sceneCategories.txt").write_text("".join(scenes))
