"""The images that are analyzed: the middle of each, and where its objects are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.analysis.measures.context import VOID
from vitlab.data import CenterCrop, SegmentationTransform, VisionDataModule, read_image
from vitlab.data.dataset import first_readable, warn_unreadable
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.storage import IMAGE_ENDINGS, few
from vitlab.data.transforms import ImageAndMask, resize_nearest

BACKGROUND = "background"
Pair = tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]


@dataclass(frozen=True)
class Images:
    """Images to analyze.

    Attributes:
        pairs: 8-bit RGB, and a mask: 1 on an object, 0 elsewhere, 255 unknown; all 255 without
            masks.
        about: dataset, root, split, size ..., for the findings.
        masks: whether there are any.
        why_not: if not, why.
    """

    pairs: Dataset[Pair]
    about: dict[str, Any]
    masks: bool
    why_not: str = ""

    def __len__(self) -> int:
        return len(self.pairs)  # type: ignore[arg-type]


class Middle(SegmentationTransform):
    """The square in the middle, of the image as `CenterCrop` has it and of its mask alike.

    Args:
        size: edge of the square, in pixels; the short side becomes size / 0.875.
    """

    def __init__(self, size: int):
        self.crop = CenterCrop(size)

    def __call__(self, image: Any, mask: Any, seed: Any = 0) -> ImageAndMask:
        """The middle of both; nothing is random."""
        size, short = self.crop.size, min(mask.shape)
        rows, columns = (self.crop.short * side // short for side in mask.shape)
        top, left = round((rows - size) / 2), round((columns - size) / 2)
        square = resize_nearest(mask, rows, columns)[top : top + size, left : left + size]
        return ImageAndMask(self.crop(image)[0][0], torch.from_numpy(np.ascontiguousarray(square)))


class Masked(Dataset[Pair]):
    """Pairs of a segmentation set, whose classes become object or not.

    Args:
        data: with masks; its training split is none that is asked for.
        split: of it.
        size: edge, in pixels.
        limit: number of images; 0 for all.
        objects: indices of the classes that are objects.
    """

    def __init__(
        self, data: VisionDataModule, split: str, size: int, limit: int, objects: Sequence[int]
    ):
        self.pairs = data.segmentation_dataset(split, Middle(size), limit)
        self.pairs.check()
        table = torch.zeros(256, dtype=torch.uint8)
        table[list(objects)] = 1
        table[VOID] = VOID
        self.table = table

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image, mask = self.pairs[index]
        return image, self.table[mask.long()]


class Unmasked(Dataset[Pair]):
    """Images alone.

    Args:
        paths: of the files.
        size: edge, in pixels.
        read: returns the content of a file; the disk's by default.
        patience: unreadable files in a row that are replaced by the next one.
    """

    def __init__(self, paths: Sequence[str], size: int, read: Any = None, patience: int = 0):
        self.paths, self.view, self.read, self.patience = paths, CenterCrop(size), read, patience

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        _, image, unreadable = first_readable(self._read, index, len(self), self.patience)
        warn_unreadable(unreadable)
        seen = self.view(image)[0][0]
        return seen, torch.full(seen.shape[1:], VOID, dtype=torch.uint8)

    def _read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        path = self.paths[index]
        if self.read is None:
            return read_image(path)
        try:
            return decode_image(self.read(path), path)
        except UnreadableImage:
            raise
        except OSError as error:
            raise UnreadableImage(path, error.strerror or str(error)) from error


def find_images(
    root: Path,
    dataset: str = "",
    split: str = "val",
    size: int = 224,
    limit: int = 0,
    objects: Sequence[str] = (),
) -> Images:
    """Find images, of a dataset or in any folder, or a single file; none is decoded.

    Args:
        root: of the dataset, or a folder of images, or an image.
        dataset: class of the dataset; "" to find out.
        split: of the dataset.
        size: edge of the squares, in pixels.
        limit: number of images, the same ones every time; 0 for all.
        objects: names of the classes that are objects; none for all but "background".

    Raises:
        ValueError: there are no such images or classes: what was given, and what is allowed.
    """
    if not root.exists():
        raise ValueError(f"there is no {root}; give --data a dataset, a folder of images, an image")
    kind = dataset_class(root, dataset)
    if kind is None:
        return _photographs(root, size, limit)
    data = kind(str(root), train_split=split, val_split=split)
    samples = data.samples(split)
    about = {"dataset": kind.__name__, "root": str(root), "split": split, "size": size}
    reason = f"{kind.__name__} has no masks"
    if samples.masks is not None:
        data = kind(
            str(root), train_split="", val_split=split
        )  # nothing is learned: no split to keep apart
        chosen, reason = _objects(data.classes, objects)
        if chosen:
            pairs = Masked(data, split, size, limit, chosen)
            names = [data.classes[index] for index in chosen]
            about |= {"images": len(pairs), "masks": True, "foreground": names}
            return Images(pairs, about, True)
    elif objects:
        raise ValueError(f"--foreground names classes of masks, and {reason}; leave it out")
    kept = samples.subset(limit)
    names = [kept.image(index) for index in range(len(kept))]
    found = Unmasked(names, size, samples.files.read, data.max_unreadable)
    return Images(found, {**about, "images": len(found), "masks": False}, False, reason)


def dataset_class(root: Path, dataset: str) -> type[VisionDataModule] | None:
    """Return the class of a dataset; None for images of no dataset.

    Args:
        root: of the dataset.
        dataset: its class; "" to find out.

    Raises:
        ValueError: the class is unknown, or could be several.
    """
    kinds = {kind.__name__: kind for kind in VisionDataModule.__subclasses__()}
    if dataset:
        if dataset not in kinds:
            raise ValueError(
                f"--dataset {dataset} is unknown; choose {', '.join(sorted(kinds))}, or leave it "
                "out for any folder of images"
            )
        return kinds[dataset]
    if not root.is_dir():
        return None
    fitting = [kind for kind in kinds.values() if kind.layout.marks and kind.layout.find(root)]
    if len(fitting) > 1:
        names = " or ".join(kind.__name__ for kind in fitting)
        raise ValueError(f"{root} could be {names}; name one with --dataset")
    return fitting[0] if fitting else None


def _photographs(root: Path, size: int, limit: int) -> Images:
    """Return the images in a folder, or one image."""
    found = [root]
    if root.is_dir():
        found = sorted(p for p in root.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise ValueError(
            f"{root} is no dataset that shows what it is, and holds no image directly in it "
            f"(endings: {', '.join(IMAGE_ENDINGS)}); name the class with --dataset, such as Folder"
        )
    if 0 < limit < len(found):
        drawn = np.random.default_rng(0).permutation(len(found))[:limit]
        found = [found[index] for index in sorted(drawn.tolist())]
    about = {"dataset": "photographs", "root": str(root), "split": "", "size": size}
    about |= {"images": len(found), "masks": False}
    return Images(Unmasked([str(p) for p in found], size), about, False, "there are no masks")


def _objects(classes: Sequence[str], asked: Sequence[str]) -> tuple[list[int], str]:
    """Return the indices of the classes that are objects, or none and why."""
    if not asked and BACKGROUND in classes:
        return [i for i, name in enumerate(classes) if name != BACKGROUND], ""
    if not asked:
        return [], (
            "its classes have none called background; name those that are objects with "
            "--foreground to measure with masks"
        )
    unknown = [name for name in asked if name not in classes]
    if unknown:
        raise ValueError(
            f"--foreground {few(unknown)}: no such class; the classes are {', '.join(classes)}"
        )
    return [classes.index(name) for name in asked], ""
