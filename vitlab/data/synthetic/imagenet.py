"""ImageNet in miniature: one class an image, and a devkit that orders the classes differently."""

import io
from pathlib import Path

import numpy as np
from scipy.io import savemat

from vitlab.data.synthetic.drawing.canvas import develop
from vitlab.data.synthetic.drawing.objects import KINDS
from vitlab.data.synthetic.drawing.scenes import portrait
from vitlab.data.synthetic.images import DrawingTask, random_size, save_jpeg
from vitlab.option_types import Amounts

# In the devkit of ImageNet the ids are not in the order of the wnids, which loaders must undo.
WNIDS = tuple(f"n9000{n:04d}" for n in range(1, len(KINDS) + 1))
ILSVRC_IDS = (7, 3, 10, 1, 12, 5, 9, 2, 8, 11, 6, 4)


def _validation_kind(seed: int, index: int) -> int:
    """Class of the validation image `index`: each run of ten images holds every class once."""
    order = np.random.default_rng([seed, index // len(KINDS)]).permutation(len(KINDS))
    return int(order[index % len(KINDS)])


def draw_image(task: DrawingTask, rng: np.random.Generator) -> None:
    """Draw and write one image."""
    if task.split == "train":
        number, kind = divmod(task.index, len(KINDS))
        path = task.root / "train" / WNIDS[kind] / f"{WNIDS[kind]}_{number + 1}.JPEG"
    else:
        kind = _validation_kind(task.seed, task.index)
        path = task.root / "val" / f"ILSVRC2012_val_{task.index + 1:08d}.JPEG"
    canvas = portrait(rng, *random_size(rng, 96, 136), kind)
    save_jpeg(path, develop(canvas, rng), rng)


def write_devkit(root: Path, seed: int, amounts: Amounts) -> None:
    """The ground truth of the validation images and the table of classes."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    kinds = [_validation_kind(seed, i) for i in range(amounts.imagenet_val * len(KINDS))]
    lines = "".join(f"{ILSVRC_IDS[kind]}\n" for kind in kinds)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    rows: list[tuple[object, ...]] = [
        (number, wnid, kind.silhouette, f"with {kind.texture}", 0, [], 0, amounts.imagenet_train)
        for number, wnid, kind in zip(ILSVRC_IDS, WNIDS, KINDS, strict=True)
    ]
    # the original lists inner nodes of WordNet too, which loaders must leave out
    children = sorted(ILSVRC_IDS)
    top = (len(KINDS) + 1, "n90009999", "object", "any of them", len(children), children, 1, 0)
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    synsets = np.array([*sorted(rows), top], [(name, object) for name in fields.split()])
    memory = io.BytesIO()
    savemat(memory, {"synsets": synsets[:, None]})
    content = memory.getvalue()
    # the first 116 bytes are free text, where scipy puts the time
    (folder / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + content[116:])
