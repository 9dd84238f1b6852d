"""Faults that are specific to one dataset: `folder_faults` and `split_faults`, by its class."""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from functools import singledispatch

import numpy as np
from torchvision import datasets as torchvision

from vitlab.data.check.inspection import SplitSummary
from vitlab.data.check.report import Finding, error, note, warning
from vitlab.data.check.split_faults import foreground_faults, unpaired_masks
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder, ImageNet
from vitlab.data.datasets.ade20k import FOLDERS
from vitlab.data.datasets.cityscapes import LABEL_MASK, TRAIN_MASK
from vitlab.data.datasets.imagenet import WORDNET_ID
from vitlab.data.datasets.voc import EXTRA
from vitlab.data.storage import FolderTree, few

CLASSES = 1000  # of the whole ImageNet, with LEAST to MOST training images each
LEAST, MOST = 732, 1300
SBD_IMAGES = 11_355
MANY_MASKS = 24  # masks of which one shows a labelId above 18, if they are labelIds
# MD5 of the original files
CIFAR_MD5 = {
    ours: dict(
        [*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])]
    )
    for ours, theirs in [(CIFAR10, torchvision.CIFAR10), (CIFAR100, torchvision.CIFAR100)]
}


def variant(data: VisionDataModule) -> str:
    """The layout of a dataset, one of the usual ones, in words."""
    words = ["extracted" if isinstance(data.files, FolderTree) else "in archives"]
    match data:
        case ImageNet() if data.files.listing("val") is not None:
            words.append("val in class folders" if data.files.folders("val") else "val flat")
        case VOC2012() if data.files.listing(EXTRA) is not None:
            words.append(f"with {EXTRA}")
        case VOC2012():
            words.append("without SBD" if data.sbd is None else "with SBD")
        case Cityscapes():
            words.append("labelIds" if data.mask_ending == LABEL_MASK else "labelTrainIds")
        case Folder():
            words.append("images and masks" if data.dense else "class folders")
    return ", ".join(words)


@singledispatch
def folder_faults(data: VisionDataModule) -> Iterator[Finding]:
    """Faults of a dataset's folders and lists."""
    yield from ()


@singledispatch
def split_faults(data: VisionDataModule, summary: SplitSummary) -> Iterator[Finding]:
    """Faults of the files of a split that only this dataset can have."""
    yield from ()


@folder_faults.register
def _(data: ImageNet) -> Iterator[Finding]:
    classes = data.classes
    wrong = [
        f"train/{folder}/{name}"
        for folder in classes
        for name in data.files.images(f"train/{folder}")
        if WORDNET_ID.match(name) and not name.startswith(folder)
    ]
    if wrong:
        yield error(
            f"{len(wrong)} training images bear the name of another class than their folder: "
            f"{few(wrong)}; move each to the folder its name begins with",
        )
    archive = data.folder / "ILSVRC2012_img_train.tar"
    if archive.is_file() and (data.folder / "train").is_dir():
        try:
            with tarfile.open(archive) as packed:
                names = {name.removeprefix("./").removesuffix(".tar") for name in packed.getnames()}
        except tarfile.TarError as problem:
            yield error(f"{archive} is no whole tar archive ({problem}); download it again")
            names = set()
        if lacking := sorted(names - set(classes)):
            yield error(
                f"train holds {len(classes):,} class folders, the archive beside it "
                f"{len(names):,}: without {few(lacking)} every later class index is shifted; "
                "extract the archive again",
            )
    elif len(classes) < CLASSES:
        yield warning(
            f"train holds {len(classes):,} of 1,000 classes: indices and scores are those of "
            "this subset; if it should be whole, some inner archives were not extracted",
        )
    if numbered := [name for name in data.files.folders("val") if re.fullmatch(r"\d{1,4}", name)]:
        yield error(
            f"val has folders named by the devkit's numbers ({few(numbered)}), whose order is "
            "not that of the WordNet ids: accuracy would be that of chance; put the images "
            "flat into val, with ILSVRC2012_devkit_t12.tar.gz beside it",
        )


@split_faults.register
def _(data: ImageNet, summary: SplitSummary) -> Iterator[Finding]:
    yield from foreground_faults(summary)
    if summary.split != "train" or data.num_classes != CLASSES:
        return
    counts = np.bincount(np.asarray(summary.samples.labels), minlength=CLASSES).tolist()
    sizes = zip(data.classes, counts, strict=True)
    odd = [f"{name} ({count})" for name, count in sizes if not LEAST <= count <= MOST]
    if odd:
        yield warning(
            f"{len(odd)} classes have other than {LEAST} to {MOST:,} training images: "
            f"{few(odd)}; extract their archives again",
        )


@folder_faults.register
def _(data: VOC2012) -> Iterator[Finding]:
    train, val, both = (data.listed(split) for split in ("train", "val", "trainval"))
    if differing := sorted({*train, *val} ^ {*both}):
        yield error(
            f"trainval.txt is not train.txt and val.txt together; {len(differing)} names "
            f"differ: {few(differing)}; restore the lists from the original archive",
        )
    known = {name.rpartition(".")[0] for name in data.files.names("JPEGImages")}
    masks = data.files.names("SegmentationClass")
    if orphans := [name for name in masks if name.rpartition(".")[0] not in known]:
        yield error(
            f"{len(orphans)} masks have no image in JPEGImages: {few(orphans)}; extract "
            "VOCtrainval_11-May-2012.tar again",
        )
    if data.sbd is not None and len(data.sbd_names) != SBD_IMAGES:
        count = len(data.sbd_names)
        yield warning(f"SBD's lists name {count:,} of {SBD_IMAGES:,} images: a subset")


@folder_faults.register
def _(data: ADE20K) -> Iterator[Finding]:
    if not (data.files.has("objectInfo150.txt") and data.classes):
        yield warning("there is no objectInfo150.txt, so classes are called by their numbers")


@split_faults.register
def _(data: ADE20K, summary: SplitSummary) -> Iterator[Finding]:
    yield from unpaired_masks(summary, [f"annotations/{FOLDERS[summary.split]}"])


@folder_faults.register
def _(data: Cityscapes) -> Iterator[Finding]:
    names = [
        name
        for split in ("train", "val")
        for city in data.files.folders(f"gtFine/{split}")
        for name in data.files.names(f"gtFine/{split}/{city}")
    ]
    usable = any(name.endswith((LABEL_MASK, TRAIN_MASK)) for name in names)
    if not usable and any(name.endswith("_gtFine_color.png") for name in names):
        yield error(
            "gtFine holds only colored masks; extract gtFine_trainvaltest.zip again, which has "
            "*_gtFine_labelIds.png",
        )
    if data.files.folders("leftImg8bit/test"):
        yield note("the masks of test are dummies; vitlab refuses to score on them")


@split_faults.register
def _(data: Cityscapes, summary: SplitSummary) -> Iterator[Finding]:
    split = summary.split
    many = data.mask_ending == LABEL_MASK and summary.masks >= MANY_MASKS
    if many and max(summary.holders) < 19:
        yield error(
            f"no mask of {split} holds a value from 19 to 33: they are called labelIds but hold "
            "train ids; restore the original ones"
        )
    if other := [f"{width} x {height}" for width, height in summary.sizes - {(2048, 1024)}]:
        yield warning(
            f"images of {split} are not 2048 x 1024 but {few(sorted(other))}: a reduced copy, "
            "whose scores cannot be compared with published ones",
        )
    cities = [f"gtFine/{split}/{city}" for city in data.files.folders(f"gtFine/{split}")]
    yield from unpaired_masks(summary, cities, data.mask_ending)


@folder_faults.register
def _(data: CIFAR10) -> Iterator[Finding]:
    files, known, archive = data.files, CIFAR_MD5[type(data)], data.layout.small_archive
    if missing := [name for name in known if not files.has(name)]:
        yield error(
            f"{files.where()} lacks {few(missing)}; extract {archive} again, or "
            "download it again if it is cut"
        )
    other = [
        name
        for name, digest in known.items()
        if name not in missing
        and hashlib.md5(files.read(name), usedforsecurity=False).hexdigest() != digest
    ]
    if other:
        yield warning(
            f"{len(other)} files of {files.where()} are not the original ones by their MD5: "
            f"{few(other)}; if nobody has made a subset of them on purpose, download "
            f"{archive} again"
        )
    count, wanted = len(data.classes), 100 if isinstance(data, CIFAR100) else 10
    if count != wanted:
        yield error(
            f"{files.where(data.names[0])} names {count} classes, not {wanted}; it is of "
            f"another set: extract {archive} again"
        )


@folder_faults.register
def _(data: Folder) -> Iterator[Finding]:
    data.samples(data.train_split)
    scored = not data.dense and data.num_classes > 1
    if data.val_split not in data.splits and "test" in data.splits:
        yield note(f"there is no {data.val_split}; score on test with --data.val_split test")
    elif data.val_split not in data.splits:
        yield (error if scored else note)(
            f"there is no {data.val_split}, which scores need; its splits are "
            f"{', '.join(data.splits)}"
        )
    if stray := data.files.images(""):
        yield warning(
            f"{len(stray)} images lie directly in {data.files.where()} and are not read: "
            f"{few(stray)}"
        )


@split_faults.register
def _(data: Folder, summary: SplitSummary) -> Iterator[Finding]:
    if summary.samples.masks is not None:
        folders = {summary.samples.mask(at).rpartition("/")[0] for at in (0, -1)}
        yield from unpaired_masks(summary, sorted(folders))
    yield from foreground_faults(summary)
