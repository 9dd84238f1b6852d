"""ImageNet-1k (ILSVRC2012, arXiv:1409.0575), or any subset of its classes."""

import io
import re
from functools import cached_property

import numpy as np
from scipy.io import loadmat

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.samples import Samples, class_folder_samples, paths, refuse_other_classes
from vitlab.data.storage import (
    FileTree,
    FolderTree,
    Layout,
    OfficialArchive,
    around,
    few,
    unpack_in_memory,
)

WORDNET_ID = re.compile(r"n\d{8}")
DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"  # what Kaggle gives in place of the devkit


class ImageNet(VisionDataModule):
    """1,281,167 training and 50,000 validation images of 1,000 classes.

    A class's index is the place of its WordNet id in sorted order, not the devkit's number.
    Validation images lie in class folders, or flat with the devkit (or Kaggle's solution file)
    in one of the folders above.
    """

    counts = {"train": 1_281_167, "val": 50_000}  # noqa: RUF012
    layout = Layout(
        marks=("train/n????????*",),
        nested=("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "imagenet", "ILSVRC2012"),
        archives=(
            OfficialArchive("ILSVRC2012_img_train.tar", holds="train", at="train"),
            OfficialArchive("ILSVRC2012_img_val.tar", holds="val", at="val"),
            OfficialArchive("train/n????????.tar", holds="train/{stem}", at="train/{stem}"),
        ),
    )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted WordNet ids: the names of the training folders."""
        folder = self.files.where("train")
        names = self.files.require("train").folders
        packed = sorted((self.folder / "train").glob("*.tar"))
        lacking = [path.name for path in packed if not path.with_suffix("").is_dir()]
        if lacking and len(lacking) < len(names):
            raise DataError(
                f"{folder} holds {len(names) - len(lacking)} class folders and {len(lacking)} "
                f"archives that have none ({few(lacking)}): an extraction that stopped; extract "
                "these, too: mkdir train/ID; tar -xf train/ID.tar -C train/ID"
            )
        strays = [name for name in names if not WORDNET_ID.fullmatch(name)]
        if strays:
            raise DataError(
                f"{folder} holds folders that are no WordNet id such as n01440764: {few(strays)}; "
                "they would shift the index of every class after them: move them away, or use "
                "Folder for classes of other names"
            )
        return tuple(names)

    def scan(self, split: str) -> Samples:
        """All images of the class folders, or of a flat validation folder."""
        if split != "val":
            return class_folder_samples(self.files, split, self.classes)
        folders, images = self.files.require("val").folders, self.files.images("val")
        if not folders:
            return self._flat(images)
        if images:
            raise DataError(
                f"{self.files.where('val')} holds images as well as folders ({few(folders)}); "
                "move the folders away, or sort all images into class folders"
            )
        found = class_folder_samples(self.files, split, self.classes)
        truth = self.truth() or {}  # sorted images need none
        places = [found.image(index).split("/")[1:] for index in range(len(found))]
        wrong = [
            f"{folder}/{name} is of {truth[stem]}"
            for folder, name in places
            if truth.get(stem := name.partition(".")[0], folder) != folder
        ]
        if wrong:
            raise DataError(
                f"{len(wrong)} validation images are not in the folder of their class by the "
                f"ground truth: {few(wrong)}; a script has sorted them by another order of "
                f"classes: put them flat into val, with {DEVKIT}.tar.gz beside it"
            )
        return found

    def _flat(self, names: list[str]) -> Samples:
        """Validation images as in the original archive, with labels from the ground truth."""
        folder, truth = self.files.where("val"), self.truth()
        if truth is None:
            raise MissingFolderError(
                f"{folder} has no class folders, and neither {DEVKIT} nor {SOLUTION} lies beside "
                f"or above it; put {DEVKIT}.tar.gz beside train and val, or sort the images into "
                "class folders"
            )
        stems = [name.partition(".")[0] for name in names]
        if set(stems) != set(truth):
            lacking, unknown = sorted(set(truth) - set(stems)), sorted(set(stems) - set(truth))
            raise DataError(
                f"{folder} holds {len(names)} images, its ground truth {len(truth)}; without an "
                f"image: {few(lacking)}; without a label: {few(unknown)}; extract "
                "ILSVRC2012_img_val.tar again, or the ground truth if that is the shorter one"
            )
        refuse_other_classes([*truth.values()], self.classes, folder)
        index = {name: number for number, name in enumerate(self.classes)}
        labels = np.array([index[truth[stem]] for stem in stems], dtype=np.int64)
        return Samples(self.files, paths([f"val/{name}" for name in names]), labels)

    def truth(self) -> dict[str, str] | None:
        """WordNet id of each validation image, by its name without ending; None if not there."""
        for folder in around(self.folder):
            kit, packed = folder / DEVKIT / "data", folder / f"{DEVKIT}.tar.gz"
            if kit.is_dir():
                return _devkit_truth(FolderTree(kit))
            if packed.is_file():
                return _devkit_truth(unpack_in_memory(packed))
            if (folder / SOLUTION).is_file():
                return _kaggle_truth(FolderTree(folder))
        return None


def _devkit_truth(kit: FileTree) -> dict[str, str]:
    """Line n of the ground truth is the devkit's number of the class of image n."""
    try:
        meta = loadmat(io.BytesIO(kit.read("meta.mat")), squeeze_me=True)
        wordnet = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in np.atleast_1d(meta["synsets"])
            if int(synset["num_children"]) == 0  # the others are groups of classes
        }
        numbers = kit.read("ILSVRC2012_validation_ground_truth.txt").decode().split()
        return {
            f"ILSVRC2012_val_{line:08d}": wordnet[int(number)]
            for line, number in enumerate(numbers, start=1)
        }
    except Exception as error:  # the parser trips over damage in many ways
        raise DataError(
            f"cannot read the devkit in {kit.where()} ({error}); download {DEVKIT}.tar.gz again",
            field=DEVKIT,
        ) from error


def _kaggle_truth(folder: FileTree) -> dict[str, str]:
    """Rows such as ILSVRC2012_val_00048981,n03995372 85 1 499 272."""
    rows = [row for row in folder.text(SOLUTION).splitlines()[1:] if row.strip()]
    found = {name: boxes.split() for name, _, boxes in (row.partition(",") for row in rows)}
    if not all(found.values()) or not found:
        raise DataError(
            f"{folder.where(SOLUTION)} holds no labels, or a line of it is cut; get it again"
        )
    return {name: boxes[0] for name, boxes in found.items()}
