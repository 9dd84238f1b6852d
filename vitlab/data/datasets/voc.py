"""PASCAL VOC 2012 segmentation (Everingham et al., host.robots.ox.ac.uk/pascal/VOC/voc2012)."""

from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.samples import Samples, masked_samples
from vitlab.data.storage import FileTree, Layout, OfficialArchive, OverlayTree, around, few

EXTRA = "SegmentationClassAug"
LISTS = ("trainaug", "train_aug")
AGAIN = "extract the archive again"

SBD_LAYOUT = Layout(
    marks=("cls/*.mat", "train.txt", "val.txt"),
    nested=(
        *("benchmark_RELEASE/dataset", "benchmark_RELEASE", "SBD", "sbd", "dataset", ""),
        *("SBD/benchmark_RELEASE/dataset", "sbd/benchmark_RELEASE/dataset"),
    ),
)


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
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant"),
        *("sheep", "sofa", "train", "tv/monitor"),
    )
    mask_values = {index: index for index in [*range(21), 255]}  # noqa: RUF012

    def scan(self, split: str) -> Samples:
        """Files named in the split's list."""
        if split == "trainaug":
            return self._augmented()
        names = self.listed(split)
        if split == "train":
            self._refuse_val_names(names, self._list_file(split))
        images = [f"JPEGImages/{name}.jpg" for name in names]
        masks = [f"SegmentationClass/{name}.png" for name in names]
        return masked_samples(self.files, images, masks, restore=AGAIN)

    def listed(self, split: str) -> list[str]:
        """Names of the images of a split by its list."""
        file = self._list_file(split)
        if not self.files.has(file):
            raise DataError(
                f"there is no {self.files.where(file)}; extract VOCtrainval_11-May-2012.tar again"
            )
        # some lists give the paths of image and mask instead of the name
        lines = self.files.text(file).splitlines()
        return [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]

    @cached_property
    def sbd(self) -> FileTree | None:
        """SBD's folder `dataset` in, beside or above VOC's: `benchmark.tgz`, extracted.

        The Semantic Boundaries Dataset (Hariharan et al., Semantic Contours from Inverse
        Detectors) has masks cls/NAME.mat and images img/NAME.jpg of 11,355 images of VOC's; many
        are in VOC 2012's validation list, which training must not see.
        """
        for folder in around(self.folder):
            found = SBD_LAYOUT.find(folder)
            if found is not None:
                return found[0]
            if (folder / "benchmark_RELEASE").is_dir():
                raise DataError(
                    f"SBD in {folder / 'benchmark_RELEASE'} is not whole: its folder dataset must "
                    f"hold {', '.join(SBD_LAYOUT.marks)}; extract benchmark.tgz again"
                )
        return None

    @cached_property
    def sbd_names(self) -> set[str]:
        """Names of all images of SBD, in its lists for training and validation."""
        lists = [self.sbd.text(name) for name in ("train.txt", "val.txt")] if self.sbd else []
        return set(" ".join(lists).split())

    def _augmented(self) -> Samples:
        """VOC's training images and SBD's without those of val; VOC's own masks where it has any.

        The names come from a list `trainaug.txt` if there is one, else from SBD, else from the
        folder `SegmentationClassAug`; the masks of SBD from that folder, else from SBD.
        """
        converted = self._stems(EXTRA)
        file = next(filter(self.files.has, map(self._list_file, LISTS)), None)
        if file is not None:
            names = self.listed(PurePosixPath(file).stem)
            self._refuse_val_names(names, file)
        elif extra := self.sbd_names or converted:
            names = sorted((extra | set(self.listed("train"))) - set(self.listed("val")))
        else:
            raise MissingFolderError(
                f"trainaug needs the masks of SBD, and neither {EXTRA} lies in "
                f"{self.files.where()} nor benchmark_RELEASE/dataset in, beside or above it; "
                "extract SBD's benchmark.tgz there, or use split train"
            )
        own, here = self._stems("SegmentationClass"), self._stems("JPEGImages")
        images, masks = [], []
        for name in names:
            from_sbd = self.sbd is not None and name not in here
            images.append(f"img/{name}.jpg" if from_sbd else f"JPEGImages/{name}.jpg")
            if name in own:
                masks.append(f"SegmentationClass/{name}.png")
            elif name in converted or self.sbd is None:
                masks.append(f"{EXTRA}/{name}.png")
            else:
                masks.append(f"cls/{name}.mat")
        files = OverlayTree(self.files, self.sbd) if self.sbd else self.files
        return masked_samples(files, images, masks, restore=AGAIN)

    def _stems(self, folder: str) -> set[str]:
        return {name.rpartition(".")[0] for name in self.files.names(folder)}

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
