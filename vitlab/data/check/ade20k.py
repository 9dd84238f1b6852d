"""Faults of ADE20K."""

from collections.abc import Iterator

from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.masks import unpaired_masks
from vitlab.data.check.report import Finding, error, warning
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.datasets.ade20k import ADE20K, FOLDERS
from vitlab.data.errors import DataError
from vitlab.data.storage import FolderTree, few


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
