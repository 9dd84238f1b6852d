"""PASCAL VOC 2012 segmentation (Everingham et al., host.robots.ox.ac.uk/pascal/VOC/voc2012)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.samples import Samples, masked_samples
from vitlab.data.storage import FileTree, Layout, OfficialArchive, OverlayTree, around, few, text

EXTRA = "SegmentationClassAug"
LISTS = ("trainaug", "train_aug")

SBD_LAYOUT = Layout(
    marks=("cls/*.mat", "train.txt", "val.txt"),
    nested=(
        *("benchmark_RELEASE/dataset", "benchmark_RELEASE", "SBD", "sbd", "dataset", ""),
        *("SBD/benchmark_RELEASE/dataset", "sbd/benchmark_RELEASE/dataset"),
    ),
)


@dataclass(frozen=True)
class SBD:
    """Extra masks (Hariharan et al., Semantic Contours from Inverse Detectors): `benchmark.tgz`.

    Its 11,355 images are VOC's own; many are in VOC 2012's validation list, which training must
    not see.

    Attributes:
        files: below its folder `dataset`: masks cls/NAME.mat, images img/NAME.jpg.
        names: of all its images, in its lists for training and validation.
    """

    files: FileTree
    names: frozenset[str]

    @classmethod
    def near(cls, folders: Iterable[Path]) -> "SBD | None":
        """The first one in one of the folders, or None."""
        for folder in folders:
            found = SBD_LAYOUT.find(folder)
            if found is not None:
                lists = [text(found[0], name) for name in ("train.txt", "val.txt")]
                return cls(found[0], frozenset(" ".join(lists).split()))
            if (folder / "benchmark_RELEASE").is_dir():
                raise DataError(
                    f"SBD in {folder / 'benchmark_RELEASE'} is not whole: its folder dataset must "
                    f"hold {', '.join(SBD_LAYOUT.marks)}; extract benchmark.tgz again"
                )
        return None


class VOC2012(VisionDataModule):
    """1,464 training and 1,449 validation images with masks of 21 classes.

    `trainaug` adds those of SBD to the training images: 10,582 in all, none of them in `val`.

    Mask files hold the class index itself, behind a palette; 255 marks borders and hard objects.
    """

    layout = Layout(
        marks=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
        nested=("", "VOC2012", "VOCdevkit/VOC2012"),
        archives=(OfficialArchive("VOCtrainval_11-May-2012.tar", holds="VOCdevkit"),),
    )
    counts = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10_582}  # noqa: RUF012
    splits = ("train", "val", "trainval", "trainaug")
    classes = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv/monitor",
    )
    mask_values = {index: index for index in [*range(21), 255]}  # noqa: RUF012

    def scan(self, split: str) -> Samples:
        """Files named in the split's list.

        Raises:
            DataError: if a list or a file is missing, or images of val are in train or trainaug.
        """
        if split == "trainaug":
            return self._augmented()
        names = self.listed(split)
        if split == "train":
            self._refuse_val_names(names, self._list_file(split))
        images = [f"JPEGImages/{name}.jpg" for name in names]
        masks = [f"SegmentationClass/{name}.png" for name in names]
        return masked_samples(self.files, images, masks)

    def listed(self, split: str) -> list[str]:
        """Names of the images of a split by its list.

        Raises:
            DataError: if there is no such list.
        """
        file = self._list_file(split)
        if not self.files.has(file):
            raise DataError(
                f"there is no {self.files.where(file)}; extract VOCtrainval_11-May-2012.tar again"
            )
        # some lists give the paths of image and mask instead of the name
        lines = text(self.files, file).splitlines()
        return [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]

    @cached_property
    def sbd(self) -> SBD | None:
        """SBD where it lies in, beside or above the dataset's folder."""
        return SBD.near(around(self.folder))

    def _augmented(self) -> Samples:
        """VOC's training images and SBD's without those of val; VOC's own masks where it has any.

        The names come from a list `trainaug.txt` if there is one, else from SBD, else from the
        folder `SegmentationClassAug`; the masks of SBD from that folder, else from SBD.
        """
        val = set(self.listed("val"))
        converted = {name.removesuffix(".png") for name in self.files.names(EXTRA)}
        file = next(filter(self.files.has, map(self._list_file, LISTS)), None)
        if file is not None:
            names = self.listed(file.rpartition("/")[2].removesuffix(".txt"))
            self._refuse_val_names(names, file)
        elif self.sbd is not None:
            names = sorted((self.sbd.names | set(self.listed("train"))) - val)
        elif converted:
            names = sorted((converted | set(self.listed("train"))) - val)
        else:
            raise MissingFolderError(
                f"trainaug needs the masks of SBD, and neither {EXTRA} lies in "
                f"{self.files.where()} nor benchmark_RELEASE/dataset in, beside or above it; "
                "extract SBD's benchmark.tgz there, or use split train"
            )
        voc = {name.removesuffix(".png") for name in self.files.names("SegmentationClass")}
        masks = [
            f"SegmentationClass/{name}.png"
            if name in voc
            else f"{EXTRA}/{name}.png"
            if name in converted or self.sbd is None
            else f"cls/{name}.mat"
            for name in names
        ]
        here = {name.removesuffix(".jpg") for name in self.files.names("JPEGImages")}
        images = [
            f"JPEGImages/{name}.jpg" if name in here or self.sbd is None else f"img/{name}.jpg"
            for name in names
        ]
        files = OverlayTree(self.files, self.sbd.files) if self.sbd else self.files
        return masked_samples(files, images, masks)

    def _list_file(self, split: str) -> str:
        return f"ImageSets/Segmentation/{split}.txt"

    def _refuse_val_names(self, names: list[str], file: str) -> None:
        """Refuse to train on images that are scored."""
        if not self.files.has(self._list_file("val")):
            return
        leaked = sorted(set(names) & set(self.listed("val")))
        if leaked:
            raise DataError(
                f"{len(leaked)} images of val are in {self.files.where(file)} too: {few(leaked)}; "
                "scores on val would mean nothing; take them off that list, or restore the "
                "original one"
            )


def palette() -> UInt8[np.ndarray, "256 3"]:
    """VOC's color of each index: its bits 0, 3, 6 make red, from the highest down, and so on."""
    index = np.arange(256)[:, None]
    bit = np.arange(8)
    parts = [((index >> (3 * bit + c) & 1) << (7 - bit)).sum(1) for c in range(3)]
    return np.stack(parts, 1).astype(np.uint8)
