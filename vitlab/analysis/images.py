"""Images of an analysis: center crops, with masks of their objects where a dataset has masks."""

import copy
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
from vitlab.errors import InputError

BACKGROUND = "background"
Pair = tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]


@dataclass(frozen=True)
class Images:
    """Images to analyze.

    Attributes:
        pairs: 8-bit RGB, and a mask: 1 on an object, 0 elsewhere, 255 unknown; all 255 without
            masks.
        about: dataset, root, split, size ..., for the results.
        masks: whether there are any.
        why_no_masks: the reason, if there are none.
    """

    pairs: Dataset[Pair]
    about: dict[str, Any]
    masks: bool
    why_no_masks: str = ""

    def __len__(self) -> int:
        return len(self.pairs)  # type: ignore[arg-type]


class CenterCropPair(SegmentationTransform):
    """The center crop of an image, as by `CenterCrop`, and of its mask alike."""

    def __init__(self, size: int):
        self.crop = CenterCrop(size)

    def __call__(self, image: Any, mask: Any, seed: Any = 0) -> ImageAndMask:
        """Crop both; nothing is random."""
        size, short = self.crop.size, min(mask.shape)
        rows, columns = (self.crop.resize_size * side // short for side in mask.shape)
        top, left = round((rows - size) / 2), round((columns - size) / 2)
        square = resize_nearest(mask, rows, columns)[top : top + size, left : left + size]
        return ImageAndMask(self.crop(image)[0][0], torch.from_numpy(np.ascontiguousarray(square)))


class ObjectPairs(Dataset[Pair]):
    """Images and masks of a segmentation dataset, each class an object or not; 0 is no limit."""

    def __init__(
        self, data: VisionDataModule, split: str, size: int, limit: int, objects: Sequence[int]
    ):
        self.pairs = data.segmentation_dataset(split, CenterCropPair(size), limit)
        self.pairs.check()
        self.table = torch.zeros(256, dtype=torch.uint8)
        self.table[list(objects)] = 1
        self.table[VOID] = VOID

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image, mask = self.pairs[index]
        return image, self.table[mask.long()]


class UnlabeledPairs(Dataset[Pair]):
    """Images with masks of unknown pixels.

    `read` returns the content of a file, from the disk by default; `patience` unreadable files in a
    row are replaced by the next one.
    """

    def __init__(self, paths: Sequence[str], size: int, read: Any = None, patience: int = 0):
        self.paths, self.crop, self.read, self.patience = paths, CenterCrop(size), read, patience

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        _, image, unreadable = first_readable(self._read, index, len(self), self.patience)
        warn_unreadable(unreadable)
        square = self.crop(image)[0][0]
        return square, torch.full(square.shape[1:], VOID, dtype=torch.uint8)

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
    source: VisionDataModule | Path,
    size: int = 224,
    limit: int = 0,
    split: str = "",
    objects: Sequence[str] = (),
) -> Images:
    """Find the images of a dataset, or photographs; none is decoded.

    Args:
        source: a dataset, a folder of photographs, or one photograph.
        size: edge of the squares, in pixels.
        limit: number of images, the same ones every time; 0 for all.
        split: of the dataset; its val_split by default.
        objects: classes that are objects; all but "background" by default.

    Raises:
        InputError: there are no such images or classes.
    """
    if isinstance(source, Path):
        if objects:
            raise InputError("--foreground needs masks, and photographs have none", field="--data")
        return _photographs(source, size, limit)
    data, kind = copy.copy(source), type(source).__name__
    # nothing is learned: no split to keep apart
    data.train_split, data.val_split = "", split or source.val_split
    samples = data.samples(data.val_split)
    about: dict[str, Any] = {"dataset": kind, "root": str(data.root)}
    about |= {"split": data.val_split, "size": size}
    reason = f"{kind} has no masks"
    if samples.masks is not None:
        chosen, reason = _object_classes(data.classes, objects)
        if chosen:
            pairs = ObjectPairs(data, data.val_split, size, limit, chosen)
            names = [data.classes[index] for index in chosen]
            about |= {"images": len(pairs), "masks": True, "foreground": names}
            return Images(pairs, about, True)
    elif objects:
        raise InputError(
            f"--foreground names classes of masks, and {reason}; leave it out", field="--foreground"
        )
    kept = samples.subset(limit)
    paths = [kept.image(index) for index in range(len(kept))]
    found = UnlabeledPairs(paths, size, samples.files.read, data.max_unreadable)
    return Images(found, {**about, "images": len(found), "masks": False}, False, reason)


def _photographs(root: Path, size: int, limit: int) -> Images:
    """Return the images in a folder, or one image."""
    found = [root]
    if not root.exists():
        raise InputError(
            f"there is no {root}; give a folder of photographs, or one", field="--photographs"
        )
    if root.is_dir():
        found = sorted(p for p in root.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise InputError(
            f"{root} holds no image directly in it (endings: {', '.join(IMAGE_ENDINGS)}); give a "
            "folder of photographs, or a dataset as --data.root",
            field="--photographs",
        )
    if 0 < limit < len(found):
        drawn = np.random.default_rng(0).permutation(len(found))[:limit]
        found = [found[index] for index in sorted(drawn.tolist())]
    about = {"dataset": "photographs", "root": str(root), "split": "", "size": size}
    about |= {"images": len(found), "masks": False}
    pairs = UnlabeledPairs([str(path) for path in found], size)
    return Images(pairs, about, False, "there are no masks")


def _object_classes(classes: Sequence[str], asked: Sequence[str]) -> tuple[list[int], str]:
    """Return the indices of the classes that are objects, or none and the reason."""
    if not asked and BACKGROUND in classes:
        return [i for i, name in enumerate(classes) if name != BACKGROUND], ""
    if not asked:
        return [], (
            "its classes have none called background; name those that are objects with "
            "--foreground to measure with masks"
        )
    if unknown := [name for name in asked if name not in classes]:
        raise InputError(
            f"--foreground {few(unknown)}: no such class; the classes are {', '.join(classes)}",
            field="--foreground",
        )
    return [classes.index(name) for name in asked], ""
