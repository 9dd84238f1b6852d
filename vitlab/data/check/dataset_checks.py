"""Faults that are specific to one dataset."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

from torchvision import datasets as torchvision

from vitlab.data.check.report import Finding, error, note, warning
from vitlab.data.check.split_summary import SplitSummary, foreground_faults, unpaired_masks
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder
from vitlab.data.datasets.ade20k import FOLDERS
from vitlab.data.datasets.cityscapes import LABEL_IDS, LABEL_MASK, TRAIN_MASK
from vitlab.data.datasets.voc import EXTRA
from vitlab.data.errors import DataError
from vitlab.data.storage import FolderTree, MemoryTree, few

SBD_IMAGES = 11_355
MANY_MASKS = 24  # masks of which one shows a labelId above 18, if they are labelIds
# MD5 of the original files
CIFAR_MD5 = {
    ours: dict(
        [*theirs.train_list, *theirs.test_list, [theirs.meta[key] for key in ("filename", "md5")]]
    )
    for ours, theirs in [(CIFAR10, torchvision.CIFAR10), (CIFAR100, torchvision.CIFAR100)]
}

D = TypeVar("D", bound=VisionDataModule)


class DatasetCheck(ABC, Generic[D]):
    """The known faults of one dataset.

    Args:
        data: the dataset to check.
    """

    def __init__(self, data: D):
        self.data = data

    @abstractmethod
    def variant(self) -> str:
        """Its layout, one of the usual ones, in words."""

    def folder_faults(self) -> Iterator[Finding]:
        """Faults of its folders and lists."""
        return iter(())

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Faults of the files of a split."""
        return iter(())

    def absent_split(self, split: str) -> str:
        """Note for a split that is absent but optional; "" if it is required."""
        return ""


class VOC2012Check(DatasetCheck[VOC2012]):
    """The faults of VOC2012."""

    def variant(self) -> str:
        """Where its files and its extra masks come from."""
        packed = self.data.folder / "VOCtrainval_11-May-2012.tar"
        words = "extracted"
        if packed.is_file() and not FolderTree(self.data.folder).has("VOCdevkit"):
            words = "in its archive"
        if self.data.files.listing(EXTRA) is not None:
            return f"{words}, with {EXTRA}"
        return f"{words}, with SBD" if self.data.sbd is not None else f"{words}, without SBD"

    def folder_faults(self) -> Iterator[Finding]:
        """Lists that disagree, and masks of nothing."""
        try:
            lists = {split: self.data.listed(split) for split in ("train", "val", "trainval")}
        except DataError:
            return  # listing the split says so
        for split, names in lists.items():
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                yield error(
                    f"{split}.txt names {len(twice)} images more than once: {few(twice)}; restore "
                    "it from the original archive",
                )
        apart = set(lists["train"]) | set(lists["val"])
        if apart != set(lists["trainval"]):
            differing = sorted(apart ^ set(lists["trainval"]))
            yield error(
                f"trainval.txt is not train.txt and val.txt together; {len(differing)} names "
                f"differ: {few(differing)}; restore the lists from the original archive",
            )
        known = {name.rpartition(".")[0] for name in self.data.files.names("JPEGImages")}
        masks = self.data.files.names("SegmentationClass")
        orphans = [name for name in masks if name.rpartition(".")[0] not in known]
        if orphans:
            yield error(
                f"{len(orphans)} masks have no image in JPEGImages: {few(orphans)}; extract "
                "VOCtrainval_11-May-2012.tar again",
            )
        if self.data.sbd is not None and len(self.data.sbd.names) != SBD_IMAGES:
            yield warning(
                f"SBD's lists name {len(self.data.sbd.names):,} of {SBD_IMAGES:,} images: a subset",
            )

    def absent_split(self, split: str) -> str:
        """Without SBD there is no trainaug, which many do not need."""
        return "no split trainaug: SBD is not there" if split == "trainaug" else ""


class ADE20KCheck(DatasetCheck[ADE20K]):
    """The faults of ADE20K."""

    def variant(self) -> str:
        """Folder or archive."""
        disk, folder = FolderTree(self.data.folder), "ADEChallengeData2016"
        extracted = disk.root.name == folder or disk.has(folder) or disk.has("annotations")
        return "150 classes, extracted" if extracted else "in its archive"

    def folder_faults(self) -> Iterator[Finding]:
        """A missing list of classes."""
        try:
            named = self.data.files.has("objectInfo150.txt") and bool(self.data.classes)
        except DataError as problem:
            yield error(str(problem))
            return
        if not named:
            yield warning("there is no objectInfo150.txt, so classes are called by their numbers")

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Labels that were reduced before, and masks without images."""
        holders = summary.holders.get(255)
        if holders:
            yield error(
                f"{len(holders)} masks of {summary.split} hold 255 ({few(holders)}), which no "
                "original does: some tool has already reduced the labels (0 to 255, the others "
                "minus 1), and vitlab does it again while reading; restore the original "
                "annotations",
            )
        yield from unpaired_masks(summary, [f"annotations/{FOLDERS[summary.split]}"])


class CityscapesCheck(DatasetCheck[Cityscapes]):
    """The faults of Cityscapes."""

    def variant(self) -> str:
        """Which ids the masks hold, and whether they are in archives."""
        ids = "labelIds" if self.data.mask_ending == LABEL_MASK else "labelTrainIds"
        disk = FolderTree(self.data.folder)
        packed = [name for name in ("leftImg8bit", "gtFine") if disk.listing(name) is None]
        if packed and self.data.folder.joinpath("gtFine_trainvaltest.zip").is_file():
            return f"{ids}, {' and '.join(packed)} in archives"
        return f"{ids}, extracted"

    def folder_faults(self) -> Iterator[Finding]:
        """Only colored masks; a test split that cannot be scored."""
        names = [
            name
            for split in ("train", "val")
            for city in self.data.files.folders(f"gtFine/{split}")
            for name in self.data.files.names(f"gtFine/{split}/{city}")
        ]
        usable = any(name.endswith((LABEL_MASK, TRAIN_MASK)) for name in names)
        if not usable and any(name.endswith("_gtFine_color.png") for name in names):
            yield error(
                "gtFine holds only colored masks; extract gtFine_trainvaltest.zip again, which has "
                "*_gtFine_labelIds.png",
            )
        if self.data.files.folders("leftImg8bit/test"):
            yield note("the masks of test are dummies; vitlab refuses to score on them")

    def absent_split(self, split: str) -> str:
        """One split alone can be of use."""
        return "" if self.data.files.folders(f"gtFine/{split}") else f"there is no split {split}"

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Ids of the other kind under a name, unusual sizes, masks without images."""
        values = set(summary.holders)
        if self.data.mask_ending == LABEL_MASK and summary.masks >= MANY_MASKS and max(values) < 19:
            yield error(
                f"no mask of {summary.split} holds a value from 19 to 33: they are called labelIds "
                "but hold train ids; restore the original ones"
            )
        above = sorted(values - {255} - set(range(len(LABEL_IDS))))
        if self.data.mask_ending == TRAIN_MASK and above:
            yield error(
                f"the masks of {summary.split} are called labelTrainIds but hold labelIds such as "
                f"{above[0]}; name them *_gtFine_labelIds.png, or make them again",
            )
        other = sorted(summary.sizes - {(2048, 1024)})
        if other:
            shown = few([f"{width} x {height}" for width, height in other])
            yield warning(
                f"images of {summary.split} are not 2048 x 1024 but {shown}: a reduced copy, whose "
                "scores cannot be compared with published ones",
            )
        place = f"gtFine/{summary.split}"
        cities = [f"{place}/{city}" for city in self.data.files.folders(place)]
        yield from unpaired_masks(summary, cities, self.data.mask_ending)


class CIFARCheck(DatasetCheck[CIFAR10]):
    """The faults of both."""

    def variant(self) -> str:
        """Folder or archive."""
        return "in its archive" if isinstance(self.data.files, MemoryTree) else "extracted"

    def folder_faults(self) -> Iterator[Finding]:
        """Missing files, and files that are not the original ones."""
        files, known = self.data.files, CIFAR_MD5[type(self.data)]
        archive = self.data.layout.name
        missing = [name for name in known if not files.has(name)]
        if missing:
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
        if not isinstance(files, MemoryTree) and (self.data.folder / archive).is_file():
            yield note(f"{archive} lies beside its files, and is not read")
        try:
            count, wanted = len(self.data.classes), 100 if type(self.data) is CIFAR100 else 10
        except DataError:
            return  # reported with the splits
        if count != wanted:
            yield error(
                f"{files.where(self.data.names[0])} names {count} classes, not {wanted}; it is of "
                f"another set: extract {archive} again"
            )


class FolderCheck(DatasetCheck[Folder]):
    """The faults of Folder."""

    def variant(self) -> str:
        """Class folders or masks."""
        return "images and masks" if self.data.dense else "class folders"

    def folder_faults(self) -> Iterator[Finding]:
        """A split to score on under another name than the default."""
        if self.data.val_split not in self.data.splits and "test" in self.data.splits:
            yield note(
                f"there is no {self.data.val_split}; score on test with --data.val_split test"
            )

    def absent_split(self, split: str) -> str:
        """One split alone can be of use."""
        return "" if self.data.files.has(split) else f"there is no split {split}"

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Masks without images, or of another size."""
        if summary.samples.masks is not None:
            yield from unpaired_masks(summary, [f"masks/{summary.split}"])
        yield from foreground_faults(summary)
