"""Images of an analysis: center crops, with masks of their objects where a dataset has masks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.analysis.measures.context import VOID
from vitlab.data import CenterCrop, SegmentationTransform, VisionDataModule
from vitlab.data.dataset import ClassificationDataset
from vitlab.data.samples import Samples, paths
from vitlab.data.storage import IMAGE_ENDINGS, FolderTree, few
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
    """Images with masks of unknown pixels; `patience` as of `ClassificationDataset`."""

    def __init__(self, samples: Samples, size: int, patience: int = 0):
        unlabeled = replace(samples, labels=np.zeros(len(samples), np.int64))
        self.images = ClassificationDataset(unlabeled, size, patience)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pair:
        square, _ = self.images[index]
        return square, torch.full(square.shape[1:], VOID, dtype=torch.uint8)


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
    about: dict[str, Any]
    if isinstance(source, Path):
        samples, patience, reason = _photographs(source), 0, "there are no masks"
        about = {"dataset": "photographs", "root": str(source), "split": "", "size": size}
    else:
        data = copy.copy(source)
        # nothing is learned: no split to keep apart
        data.train_split, data.val_split = "", split or source.val_split
        samples, patience = data.samples(data.val_split), data.max_unreadable
        reason = f"{type(source).__name__} has no masks"
        about = {"dataset": data.dataset_name, "root": str(data.root)}
        about |= {"split": data.val_split, "size": size}
        if samples.masks is not None:
            if chosen := _object_classes(data.classes, objects):
                pairs = ObjectPairs(data, data.val_split, size, limit, chosen)
                names = [data.classes[index] for index in chosen]
                about |= {"images": len(pairs), "masks": True, "foreground": names}
                return Images(pairs, about, True)
            reason = (
                "its classes have none called background; name those that are objects with "
                "--foreground to measure with masks"
            )
    if objects:
        raise InputError(
            f"--foreground names classes of masks, and {reason}; leave it out", field="--foreground"
        )
    found = UnlabeledPairs(samples.subset(limit), size, patience)
    return Images(found, {**about, "images": len(found), "masks": False}, False, reason)


def _photographs(root: Path) -> Samples:
    """Return the images in a folder, or one image."""
    files = FolderTree(root if root.is_dir() else root.parent)
    names = files.images("") if root.is_dir() else [root.name] * root.exists()
    if not names:
        raise InputError(
            f"{root} holds no image directly in it (endings: {', '.join(IMAGE_ENDINGS)}); give a "
            "folder of photographs, one photograph, or a dataset as --data.root",
            field="--photographs",
        )
    return Samples(files, paths(names))


def _object_classes(classes: Sequence[str], asked: Sequence[str]) -> list[int]:
    """Return the indices of the classes that are objects; all but background by default."""
    if unknown := [name for name in asked if name not in classes]:
        raise InputError(
            f"--foreground {few(unknown)}: no such class; the classes are {', '.join(classes)}",
            field="--foreground",
        )
    if not asked and BACKGROUND in classes:
        asked = [name for name in classes if name != BACKGROUND]
    return [classes.index(name) for name in asked]
