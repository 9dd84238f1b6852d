"""ADE20K in miniature: rooms and fields, where stuff is labeled as well as objects."""

from pathlib import Path

import numpy as np
from PIL import Image

from vitlab.data.synthetic.drawing.canvas import develop
from vitlab.data.synthetic.drawing.objects import KINDS
from vitlab.data.synthetic.drawing.scenes import room
from vitlab.data.synthetic.images import DrawingTask, random_size, save_jpeg, save_png

FOLDERS = {"train": "training", "val": "validation"}
ADE_IDS = (13, 15, 18, 20, 21, 24, 37, 40, 44, 63, 65, 83)  # of KINDS, in their order
ADE_STUFF = {"wall": 1, "sky": 3, "floor": 4, "grass": 10, "water": 22}


def draw_image(task: DrawingTask, rng: np.random.Generator) -> None:
    """Draw and write one image and its mask."""
    canvas = room(rng, *random_size(rng, 128, 192), ADE_STUFF, ADE_IDS)
    name = f"ADE_{task.split}_{task.index + 1:08d}"
    folder = FOLDERS[task.split]
    save_jpeg(task.root / "images" / folder / f"{name}.jpg", develop(canvas, rng), rng)
    save_png(task.root / "annotations" / folder / f"{name}.png", canvas.labels)


def write_tables(root: Path) -> None:
    """The table of the 150 classes, with their frequencies, and a scene for each image."""
    pixels, present = np.zeros(151), {name: np.zeros(151, int) for name in FOLDERS.values()}
    scenes = []
    for folder, images in present.items():
        for path in sorted((root / "annotations" / folder).iterdir()):
            counts = np.bincount(np.asarray(Image.open(path)).ravel(), minlength=151)
            images += counts > 0
            pixels += counts * (folder == "training")
            scenes.append(f"{path.stem} {'room' if counts[ADE_STUFF['wall']] else 'field'}\n")
    names = {label: name for name, label in ADE_STUFF.items()}
    names |= {label: kind.name for label, kind in zip(ADE_IDS, KINDS, strict=True)}
    share = pixels / pixels.sum()
    lines = ["Idx\tRatio\tTrain\tVal\tName\n"]
    for i in range(1, 151):
        counted = "\t".join(str(images[i]) for images in present.values())
        lines.append(f"{i}\t{share[i]:.4f}\t{counted}\t{names.get(i, f'class {i}')}\n")
    (root / "objectInfo150.txt").write_text("".join(lines))
    (root / "sceneCategories.txt").write_text("".join(scenes))
