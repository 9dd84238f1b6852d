"""ImageNet-1k (ILSVRC2012, arXiv:1409.0575), or any subset of its classes."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from vitlab.data.layout import Layout, few, image_names, list_class_folders, subfolders
from vitlab.data.module import Data
from vitlab.data.samples import DataError, Samples, paths

WORDNET_ID = re.compile(r"n\d{8}")
DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"  # what Kaggle gives in place of the devkit


class ImageNet(Data):
    """1,281,167 training and 50,000 validation images of 1,000 classes.

    A class's index is the place of its WordNet id in sorted order, not the devkit's number.
    Validation images lie in class folders, or flat with the devkit (or Kaggle's solution file)
    in one of the folders above.
    """

    layout = Layout(
        marks=("train/n????????*",),
        nested=("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "imagenet", "ILSVRC2012"),
    )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted WordNet ids: the names of the training folders."""
        folder = self.folder / "train"
        archives = sorted(path.name for path in folder.glob("*.tar"))
        if archives:
            raise DataError(
                f"{folder} holds {len(archives)} archives ({few(archives)}); extract each into a "
                "folder of its own name, then remove it"
            )
        names = subfolders(folder)
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
        folder = self.folder / split
        if split == "val" and not subfolders(folder):
            return self._flat(folder)
        found = list_class_folders(folder, self.classes)
        return Samples(folder, paths(found.images), found.labels)

    def _flat(self, folder: Path) -> Samples:
        """Validation images as in the original archive, with labels from the ground truth."""
        names = image_names(folder)
        truth = self._truth()
        stems = [name.partition(".")[0] for name in names]
        if set(stems) != set(truth):
            lacking, unknown = sorted(set(truth) - set(stems)), sorted(set(stems) - set(truth))
            raise DataError(
                f"{folder} holds {len(names)} images, its ground truth {len(truth)}; without an "
                f"image: {few(lacking)}; without a label: {few(unknown)}; extract "
                "ILSVRC2012_img_val.tar again"
            )
        index = {name: number for number, name in enumerate(self.classes)}
        if set(truth.values()) != set(index):
            extra = sorted(set(truth.values()) - set(index))
            untrue = sorted(set(index) - set(truth.values()))
            raise DataError(
                f"{folder} and train hold different classes; only in val: {few(extra)}; "
                f"only in train: {few(untrue)}; for a subset of the classes sort val "
                "into class folders and keep the same ones"
            )
        labels = np.array([index[truth[stem]] for stem in stems], dtype=np.int64)
        return Samples(folder, paths(names), labels)

    def _truth(self) -> dict[str, str]:
        """WordNet id of each validation image, by its name without ending."""
        for folder in (self.folder, *self.folder.absolute().parents[:3]):
            if (folder / DEVKIT / "data").is_dir():
                return _devkit_truth(folder / DEVKIT / "data")
            if (folder / SOLUTION).is_file():
                rows = (folder / SOLUTION).read_text().splitlines()[1:]
                return {row.split(",")[0]: row.split(",")[1].split()[0] for row in rows}
        raise DataError(
            f"{self.folder / 'val'} has no class folders, and neither {DEVKIT} nor {SOLUTION} "
            "lies beside or above it; extract ILSVRC2012_devkit_t12.tar.gz beside train and val, "
            "or sort the images into class folders"
        )


def _devkit_truth(folder: Path) -> dict[str, str]:
    """Line n of the ground truth is the devkit's number of the class of image n."""
    synsets = np.atleast_1d(loadmat(folder / "meta.mat", squeeze_me=True)["synsets"])
    wordnet = {
        int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
        for synset in synsets
        if int(synset["num_children"]) == 0  # the others are groups of classes
    }
    numbers = (folder / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    return {
        f"ILSVRC2012_val_{line:08d}": wordnet[int(number)]
        for line, number in enumerate(numbers, start=1)
    }
