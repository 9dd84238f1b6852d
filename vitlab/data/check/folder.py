"""Faults of a `Folder` dataset."""

from collections.abc import Iterator

from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.masks import foreground_faults, unpaired_masks
from vitlab.data.check.report import Finding, note
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.datasets.folder import Folder


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
