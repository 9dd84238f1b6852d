"""Faults of ImageNet."""

import re
import tarfile
from collections.abc import Iterator

import numpy as np

from vitlab.data.check.dataset_checks import DatasetCheck
from vitlab.data.check.report import Finding, error, warning
from vitlab.data.check.split_summary import SplitSummary, foreground_faults
from vitlab.data.datasets.imagenet import WORDNET_ID, ImageNet
from vitlab.data.errors import DataError
from vitlab.data.storage import FolderTree, few, image_names, subfolders

LEAST, MOST = 732, 1300  # training images of a class
CLASSES = 1000
ARCHIVE = "ILSVRC2012_img_train.tar"


class ImageNetCheck(DatasetCheck[ImageNet]):
    """The faults of ImageNet."""

    def variant(self) -> str:
        """How train and val are laid out."""
        disk = FolderTree(self.data.folder)
        if disk.listing("train") is None:
            words = "training images in their archive"
        elif not disk.folders("train"):
            words = "training images in an archive for each class"
        else:
            words = "training images in class folders"
        if self.data.files.listing("val") is None:
            return f"{words}, no val"
        if subfolders(self.data.files, "val"):
            return f"{words}, val in class folders"
        place = "flat" if disk.listing("val") else "in its archive"
        return f"{words}, val {place}"

    def folder_faults(self) -> Iterator[Finding]:
        """Misnamed, misplaced and missing class folders."""
        try:
            classes = self.data.classes
        except DataError as problem:
            yield error(str(problem))
            return
        yield from self._misplaced(classes)
        yield from self._incomplete(classes)
        numbered = [
            name for name in self.data.files.folders("val") if re.fullmatch(r"\d{1,4}", name)
        ]
        if numbered:
            yield error(
                f"val has folders named by the devkit's numbers ({few(numbered)}), whose order is "
                "not that of the WordNet ids: accuracy would be that of chance; put the images "
                "flat into val, with ILSVRC2012_devkit_t12.tar.gz beside it",
            )

    def absent_split(self, split: str) -> str:
        """One split alone can be of use."""
        return "" if self.data.files.has(split) else f"there is no split {split}"

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Classes of unusual size, once the set is otherwise whole; masks that do not fit."""
        yield from foreground_faults(summary)
        if summary.split != "train" or self.data.num_classes != CLASSES:
            return
        counts = np.bincount(np.asarray(summary.samples.labels), minlength=CLASSES).tolist()
        sizes = zip(self.data.classes, counts, strict=True)
        odd = [f"{name} ({count})" for name, count in sizes if not LEAST <= count <= MOST]
        if odd:
            yield warning(
                f"{len(odd)} classes have other than {LEAST} to {MOST:,} training images: "
                f"{few(odd)}; extract their archives again",
            )

    def _misplaced(self, classes: tuple[str, ...]) -> Iterator[Finding]:
        """Training images are named after their class."""
        wrong = [
            f"train/{folder}/{name}"
            for folder in classes
            for name in image_names(self.data.files, f"train/{folder}")
            if WORDNET_ID.match(name) and not name.startswith(folder)
        ]
        if wrong:
            yield error(
                f"{len(wrong)} training images bear the name of another class than their folder: "
                f"{few(wrong)}; move each to the folder its name begins with",
            )

    def _incomplete(self, classes: tuple[str, ...]) -> Iterator[Finding]:
        """Fewer class folders than there are archives in the one that lies beside them."""
        archive = self.data.folder / ARCHIVE
        if archive.is_file() and (self.data.folder / "train").is_dir():
            try:
                with tarfile.open(archive) as packed:
                    inner = {
                        name.removeprefix("./").removesuffix(".tar") for name in packed.getnames()
                    }
            except tarfile.TarError as problem:
                yield error(f"{archive} is no whole tar archive ({problem}); download it again")
                return
            lacking = sorted(inner - set(classes))
            if lacking:
                yield error(
                    f"train holds {len(classes):,} class folders, the archive beside it "
                    f"{len(inner):,}: without {few(lacking)} every later class index is shifted; "
                    "extract the archive again",
                )
        elif len(classes) < CLASSES:
            yield warning(
                f"train holds {len(classes):,} of 1,000 classes: indices and scores are those of "
                "this subset; if it should be whole, some inner archives were not extracted",
            )
