"""What can be known of one dataset beyond what all share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

from vitlab.data.check.report import Finding
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.datamodule import VisionDataModule

D = TypeVar("D", bound=VisionDataModule)


class DatasetCheck(ABC, Generic[D]):
    """The faults of one dataset.

    Args:
        data: the dataset in the folder that is checked.
    """

    def __init__(self, data: D):
        self.data = data

    @abstractmethod
    def variant(self) -> str:
        """Which of its usual forms it has, in words."""

    def faults(self) -> Iterator[Finding]:
        """What is wrong with its folders and lists."""
        return iter(())

    def about(self, summary: SplitSummary) -> Iterator[Finding]:
        """What is wrong with the files of a split."""
        return iter(())

    def lacking(self, split: str) -> str:
        """Why a split that is not there need not be, "" if it must be."""
        return ""
