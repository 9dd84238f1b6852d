"""Faults of PASCAL VOC 2012 and SBD."""

from collections import Counter
from collections.abc import Iterator

from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.report import Finding, error, warning
from vitlab.data.datasets.voc import EXTRA, VOC2012
from vitlab.data.errors import DataError
from vitlab.data.storage import FolderTree, few

SBD_IMAGES = 11_355


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
        yield from self._orphans()
        if self.data.sbd is not None and len(self.data.sbd.names) != SBD_IMAGES:
            yield warning(
                f"SBD's lists name {len(self.data.sbd.names):,} of {SBD_IMAGES:,} images: a subset",
            )

    def absent_split(self, split: str) -> str:
        """Without SBD there is no trainaug, which many do not need."""
        return "no split trainaug: SBD is not there" if split == "trainaug" else ""

    def _orphans(self) -> Iterator[Finding]:
        known = {name.rpartition(".")[0] for name in self.data.files.names("JPEGImages")}
        masks = self.data.files.names("SegmentationClass")
        orphans = [name for name in masks if name.rpartition(".")[0] not in known]
        if orphans:
            yield error(
                f"{len(orphans)} masks have no image in JPEGImages: {few(orphans)}; extract "
                "VOCtrainval_11-May-2012.tar again",
            )
