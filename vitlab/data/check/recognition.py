"""Recognition of a dataset by its folder; the reason where a folder is no usable dataset."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder, ImageNet
from vitlab.data.errors import DataError
from vitlab.data.storage import IMAGE_ENDINGS, FolderTree

DATASETS: tuple[Any, ...] = (ImageNet, VOC2012, ADE20K, Cityscapes, CIFAR10, CIFAR100)
MAX_FOLDERS = 50  # inspected, of each folder


def recognize(root: Path) -> VisionDataModule:
    """The dataset in a folder.

    Raises:
        DataError: if there is none that vitlab can read, or more than one.
    """
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"there is no folder {root}"
        raise DataError(f"{what}; give the folder that holds the dataset", field="root")
    found = {
        kind: place[0].where() for kind in DATASETS if (place := kind.layout.find(root)) is not None
    }
    if len(found) > 1:
        places = ", ".join(f"{kind.__name__} in {place}" for kind, place in found.items())
        raise DataError(
            f"{root} holds several datasets: {places}; keep each in a folder of its own, and give "
            "the folder of one",
            field="root",
        )
    if ImageNet in found and (tiny := _tiny_imagenet(FolderTree(root))):
        raise DataError(tiny, field="root")
    for kind in found:
        return kind(str(root), num_workers=0)
    _refuse_other_level(root)
    if reason := _why_unusable(root):
        raise DataError(reason, field="root")
    return Folder(str(root), num_workers=0)


def _refuse_other_level(root: Path) -> None:
    """Name the folder to give where a dataset lies elsewhere below the one given, or around it."""
    top = FolderTree(root)
    below = [top.below(name) for name in top.folders()[:MAX_FOLDERS]]
    below += [each.below(name) for each in below for name in each.folders()[:MAX_FOLDERS]]
    around = FolderTree(root.absolute().parent)
    inside = {mark.split("/")[0] for kind in DATASETS for mark in kind.layout.marks}
    places = [*below, around] if root.absolute().name in inside else below
    for files in places:
        for kind in DATASETS:
            # VOC2007 is laid out alike, and told apart by its name alone
            if "VOC2007" not in files.where() and kind.layout.fits(files):
                raise DataError(
                    f"{kind.__name__} lies in {files.where()}, not in {root}; give --root "
                    f"{files.where()}",
                    field="root",
                )


def _why_unusable(root: Path) -> str:
    """Why a folder of no known layout cannot be used; "" if it fits `Folder`."""
    disk = FolderTree(root)
    if reason := next((text for each in _within(disk, depth=2) for text in _named(each)), ""):
        return reason
    folders, names = disk.folders(), disk.names()
    if not folders and not names:
        return f"{root} is empty; extract a dataset into it"
    images = [name for each in disk.folders("train") for name in disk.names(f"train/{each}")]
    if {"images", "masks"} <= set(folders) or any(
        name.lower().endswith(IMAGE_ENDINGS) for name in images
    ):
        return ""
    shown = ", ".join([*folders, *names][:6])
    return (
        f"{root} is no dataset that vitlab knows; it holds {shown}; known are ImageNet "
        "(train/<wnid>), VOC 2012 (JPEGImages, SegmentationClass, ImageSets), ADE20K "
        "(images/training, annotations), Cityscapes (leftImg8bit, gtFine), CIFAR "
        "(cifar-10-batches-py, cifar-100-python or their .tar.gz), class folders "
        "(train/<class>, val/<class>) and images/<split> with masks/<split>"
    )


def _within(files: FolderTree, depth: int) -> Iterator[FolderTree]:
    """A folder, and the ones in it."""
    files.folders()
    yield files
    if depth:
        for name in files.folders()[:MAX_FOLDERS]:
            with suppress(DataError):  # lost+found and other folders of the system
                yield from _within(files.below(name), depth - 1)


def _tiny_imagenet(files: FolderTree) -> str:
    """How to sort Tiny-ImageNet as it is distributed into class folders; "" for anything else."""
    packed = [name for name in files.folders("train") if files.has(f"train/{name}/images")]
    listed = files.has("val/val_annotations.txt") and files.has("val/images")
    if not packed and not listed:
        return ""
    steps = []
    if packed:
        steps.append('for c in train/*/; do mv "$c"images/* "$c" && rmdir "$c"images; done')
    if listed:
        steps.append(
            "while read f c _; do mkdir -p val/$c && mv val/images/$f val/$c; "
            "done < val/val_annotations.txt; rmdir val/images"
        )
    return (
        f"{files.where()} is Tiny-ImageNet as it is distributed: its training images lie in "
        "train/<class>/images and those of val in one folder, with their classes in "
        "val_annotations.txt. Sort a copy of it into class folders, and use the class ImageNet:\n"
        f"  cd {files.where()}; {'; '.join(steps)}"
    )


def _named(files: FolderTree) -> Iterator[str]:
    """Reasons that tell what a folder is."""
    folders, names = files.folders(), files.names()
    where = files.where()
    if "VOC2007" in folders or "VOC2007" in where.split("/"):
        yield f"{where} holds VOC2007; vitlab knows VOC2012: extract VOCtrainval_11-May-2012.tar"
    if "JPEGImages" in folders:
        lacking = sorted({"SegmentationClass", "ImageSets"} - set(folders))
        lists = files.listing("ImageSets/Segmentation")
        missing = ", ".join(lacking) or ("ImageSets/Segmentation" if lists is None else "")
        if missing:
            yield (
                f"{where} looks like VOC 2012, but lacks {missing}; extract "
                "VOCtrainval_11-May-2012.tar again"
            )
    lacking = sorted({"leftImg8bit", "gtFine"} - set(folders))
    if lacking and {"leftImg8bit", "gtFine", "gtCoarse"} & set(folders):
        coarse = "; gtCoarse does not do" if "gtCoarse" in folders else ""
        yield (
            f"{where} looks like Cityscapes, but lacks {' and '.join(lacking)}{coarse}; extract "
            f"{' and '.join(f'{name}_trainvaltest.zip' for name in lacking)} there"
        )
    # the full set sorts scenes into folders by letter or by topic, with *_seg.png beside the images
    if any(name.startswith("index_ade20k") for name in names) or any(
        files.listing(scenes) is not None for scenes in ("images/ADE", "images/training/a")
    ):
        yield (
            f"{where} is the full ADE20K with more than 3,000 classes; vitlab reads the benchmark "
            "of 150: get ADEChallengeData2016.zip"
        )
    elif "annotations" in folders or files.listing("images/training") is not None:
        lacking = [
            place
            for place in ("images/training", "images/validation", "annotations")
            if files.listing(place) is None
        ]
        yield (
            f"{where} looks like ADE20K, but lacks {', '.join(lacking)}; extract "
            "ADEChallengeData2016.zip again"
        )
    for folder in files.folders("train"):
        images = files.names(f"train/{folder}") if folder.isdigit() else []
        if any(re.match(r"n\d{8}_", image) for image in images):
            yield (
                f"{files.where('train')} has ImageNet's classes in folders such as {folder}, named "
                "by a number; their order is not that of the WordNet ids: name each folder by the "
                "WordNet id its images begin with"
            )
    yield from _cifar(files, names)


def _cifar(files: FolderTree, names: list[str]) -> Iterator[str]:
    """CIFAR in another version, or in part."""
    where = files.where()
    for name, kind in (("data_batch_1", "cifar-10-python"), ("train", "cifar-100-python")):
        for ending, version in ((".bin", "binary"), (".mat", "Matlab")):
            if name + ending in names:
                yield (
                    f"{where} is the {version} version of CIFAR; vitlab reads the Python version: "
                    f"get {kind}.tar.gz"
                )
    if any(re.fullmatch(r"data_batch_\d|test_batch|batches\.meta", name) for name in names):
        yield (
            f"{where} looks like CIFAR-10, but lacks data_batch_1 or test_batch; extract "
            "cifar-10-python.tar.gz again"
        )
