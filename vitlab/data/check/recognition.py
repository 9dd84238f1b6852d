"""Recognition of a dataset by its folder; the reason where a folder is no usable dataset."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder, ImageNet
from vitlab.data.errors import DataError
from vitlab.data.storage import FolderTree
from vitlab.terminal import printable

DATASETS: tuple[Any, ...] = (ImageNet, VOC2012, ADE20K, Cityscapes, CIFAR10, CIFAR100)
MAX_FOLDERS = 50  # inspected, of each folder
# paths in a folder, of which one is enough, and what such a folder is
FOREIGN: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("VOC2007", "../VOC2007/JPEGImages"),
        "holds VOC2007; vitlab knows VOC2012: extract VOCtrainval_11-May-2012.tar",
    ),
    (  # sorts scenes into folders by letter or by topic, with *_seg.png beside the images
        ("index_ade20k*", "images/ADE", "images/training/a"),
        "is the full ADE20K with more than 3,000 classes; vitlab reads the benchmark of 150: get "
        "ADEChallengeData2016.zip",
    ),
    (
        ("train/[0-9]*/n????????_*",),
        "has ImageNet's classes in folders that are named by a number, whose order is not that of "
        "the WordNet ids: name each folder by the WordNet id its images begin with",
    ),
    (
        ("annotations/instances_*.json", "annotations/captions_*.json"),
        "is in COCO's format, whose annotations are polygons in JSON; vitlab reads one mask of "
        "class indices for each image: write them to masks/<split>/<name of the image>.png, with "
        "the images in images/<split>, and name the classes in classes.json",
    ),
    (
        ("data_batch_1.bin", "data_batch_1.mat", "train.bin", "train.mat"),
        "is the binary or the Matlab version of CIFAR; vitlab reads the Python version: get "
        "cifar-10-python.tar.gz or cifar-100-python.tar.gz",
    ),
)
# a part of these datasets, of which each path, by the names of the files, suggests the whole
PARTS: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (
        VOC2012,
        ("JPEGImages/20??_??????.jpg", "SegmentationClass/20??_??????.png"),
        "VOCtrainval_11-May-2012.tar",
    ),
    (
        Cityscapes,
        ("leftImg8bit/*/*/*_leftImg8bit.png", "gtFine/*/*/*_gtFine_*.png", "gtCoarse/*/*/*.png"),
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (gtCoarse does not do)",
    ),
    (
        ADE20K,
        ("annotations/*/ADE_*_????????.png", "images/*/ADE_*_????????.jpg", "objectInfo150.txt"),
        "ADEChallengeData2016.zip",
    ),
    (CIFAR10, ("data_batch_?", "test_batch", "batches.meta"), "cifar-10-python.tar.gz"),
)


def recognize(root: Path) -> VisionDataModule:
    """The dataset in a folder.

    Raises:
        DataError: if there is none that vitlab can read, or more than one.
    """
    root = root.expanduser()
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"there is no folder {root}"
        raise DataError(f"{what}; give the folder that holds the dataset", field="root")
    found = {kind: place[0].where() for kind in DATASETS if (place := kind.layout.find(root))}
    if len(found) > 1:
        places = ", ".join(f"{kind.__name__} in {place}" for kind, place in found.items())
        raise DataError(
            f"{root} holds several datasets: {places}; keep each in a folder of its own, and give "
            "the folder of one",
            field="root",
        )
    reason = ""
    if not found:
        reason = _elsewhere(root) or _why_unusable(root)
    elif ImageNet in found:
        reason = _tiny_imagenet(FolderTree(root))
    if reason:
        raise DataError(reason, field="root")
    return next(iter(found), Folder)(str(root), num_workers=0)


def _elsewhere(root: Path) -> str:
    """The folder to give where a dataset lies elsewhere below the one given, or around it."""
    places = [*_within(root, depth=2)][1:]
    if root.absolute().name in {mark.split("/")[0] for k in DATASETS for mark in k.layout.marks}:
        places.append(root.absolute().parent)
    for place in places:
        for kind in DATASETS:
            # VOC2007 is laid out alike, and told apart by its name alone
            if "VOC2007" not in str(place) and not kind.layout.lacking(FolderTree(place)):
                return f"{kind.__name__} lies in {place}, not in {root}; give that folder"
    return ""


def _is_folder(root: Path) -> bool:
    """Whether a place is laid out as `Folder`, at least in part."""
    data = Folder(str(root), num_workers=0)
    return data.dense or data.train_split in data.splits


def _why_unusable(root: Path) -> str:
    """Why a folder of no known layout cannot be used; "" if it fits `Folder`."""
    for place in _within(root, depth=2):
        for signs, what in FOREIGN:
            if any(next(place.glob(sign), None) for sign in signs):
                return f"{place} {what}"
        for kind, signs, archives in PARTS:
            lacking = kind.layout.lacking(FolderTree(place))
            if lacking and any(next(place.glob(sign), None) for sign in signs):
                return (
                    f"{place} looks like {kind.__name__}, but lacks {', '.join(lacking)}; extract "
                    f"{archives} again"
                )
    files = FolderTree(root)
    if not files.folders() and not files.names():
        return f"{root} is empty; extract a dataset into it"
    if _is_folder(root):
        return ""
    for place in [*_within(root, depth=2)][1:]:
        if _is_folder(place):
            return f"images in folders lie in {place}, not in {root}; give that folder"
    inside = "; ".join(f"{name}: {files.describe(name)}" for name in files.folders()[:3])
    return (
        f"{files.where()} is no dataset that vitlab knows; it holds {files.describe()}"
        f"{f' ({printable(inside)})' * bool(inside)}; known are "
        "ImageNet (train/<wnid>), VOC 2012 (JPEGImages, SegmentationClass, ImageSets), "
        "ADE20K (images/training, annotations), Cityscapes (leftImg8bit, gtFine), CIFAR "
        "(cifar-10-batches-py, cifar-100-python or their .tar.gz), class folders "
        "(train/<class>, val/<class>) and images/<split> with masks/<split>"
    )


def _within(root: Path, depth: int) -> Iterator[Path]:
    """A folder, and the ones in it."""
    folders = FolderTree(root).folders()
    yield root
    for name in folders[:MAX_FOLDERS] if depth else []:
        with suppress(DataError):  # lost+found and other folders of the system
            yield from _within(root / name, depth - 1)


def _tiny_imagenet(files: FolderTree) -> str:
    """How to sort Tiny-ImageNet as it is distributed into class folders; "" for anything else."""
    steps = []
    if any(files.has(f"train/{name}/images") for name in files.folders("train")):
        steps.append('for c in train/*/; do mv "$c"images/* "$c" && rmdir "$c"images; done')
    if files.has("val/val_annotations.txt") and files.has("val/images"):
        steps.append(
            "while read f c _; do mkdir -p val/$c && mv val/images/$f val/$c; "
            "done < val/val_annotations.txt; rmdir val/images"
        )
    if not steps:
        return ""
    return (
        f"{files.where()} is Tiny-ImageNet as it is distributed: its training images lie in "
        "train/<class>/images and those of val in one folder, with their classes in "
        "val_annotations.txt. Sort a copy of it into class folders, and use the class ImageNet:\n"
        f"  cd {files.where()}; {'; '.join(steps)}"
    )
