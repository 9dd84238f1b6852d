"""Base of the checks that are specific to one dataset."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

from vitlab.data.check.report import Finding
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.datamodule import VisionDataModule

D = TypeVar("D", bound=VisionDataModule)


class DatasetCheck(ABC, Generic[D]):
    """The known faults of one dataset.

    Args:
        data: the dataset to check.
    """

    def __init__(self, data: D):
        self.data = data

    @abstractmethod
    def variant(self) -> str:
        """Its layout, one of the usual ones, in words."""

    def folder_faults(self) -> Iterator[Finding]:
        """Faults of its folders and lists."""
        return iter(())

    def split_faults(self, summary: SplitSummary) -> Iterator[Finding]:
        """Faults of the files of a split."""
        return iter(())

    def absent_split(self, split: str) -> str:
        """Note for a split that is absent but optional; "" if it is required."""
        return ""
