"""What goes wrong with a folder of one's own."""

from collections.abc import Iterator

from vitlab.data.checking.knowledge import Knowledge
from vitlab.data.checking.orphans import orphans
from vitlab.data.checking.report import Finding
from vitlab.data.checking.summary import Summary
from vitlab.data.folder import Folder


class FolderKnowledge(Knowledge[Folder]):
    """The faults of Folder."""

    def variant(self) -> str:
        """Class folders or masks."""
        return "images and masks" if self.data.dense else "class folders"

    def lacking(self, split: str) -> str:
        """One split alone can be of use."""
        return "" if self.data.files.has(split) else f"there is no split {split}"

    def about(self, summary: Summary) -> Iterator[Finding]:
        """Masks without images."""
        if summary.samples.masks is not None:
            yield from orphans(summary, [f"masks/{summary.split}"])
