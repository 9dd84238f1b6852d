"""Faults of Cityscapes."""

from collections.abc import Iterator

from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.masks import unpaired_masks
from vitlab.data.check.report import Finding, error, note, warning
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.datasets.cityscapes import LABEL_IDS, LABEL_MASK, TRAIN_MASK, Cityscapes
from vitlab.data.storage import FolderTree, few

SIZE = (2048, 1024)  # width, height
MANY = 24  # masks of which one shows a labelId above 18, if they are labelIds


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
        if self.data.mask_ending == LABEL_MASK and summary.masks >= MANY and max(values) < 19:
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
        other = sorted(summary.sizes - {SIZE})
        if other:
            shown = few([f"{width} x {height}" for width, height in other])
            yield warning(
                f"images of {summary.split} are not {SIZE[0]} x {SIZE[1]} but {shown}: a reduced "
                "copy, whose scores cannot be compared with published ones",
            )
        place = f"gtFine/{summary.split}"
        cities = [f"{place}/{city}" for city in self.data.files.folders(place)]
        yield from unpaired_masks(summary, cities, self.data.mask_ending)
