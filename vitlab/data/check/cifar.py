"""Faults of CIFAR-10 and CIFAR-100."""

import hashlib
from collections.abc import Iterator

from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.report import Finding, error, note, warning
from vitlab.data.datasets.cifar import CIFAR10, CIFAR100
from vitlab.data.errors import DataError
from vitlab.data.storage import MemoryTree, few

# MD5 of the original files, as torchvision has them
ORIGINAL = {
    CIFAR10: {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    CIFAR100: {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
}


class CIFARCheck(DatasetCheck[CIFAR10]):
    """The faults of both."""

    @property
    def archive(self) -> str:
        """Name of the original one."""
        return self.data.layout.name

    def variant(self) -> str:
        """Folder or archive."""
        return "in its archive" if isinstance(self.data.files, MemoryTree) else "extracted"

    def folder_faults(self) -> Iterator[Finding]:
        """Missing files, and files that are not the original ones."""
        files, known = self.data.files, ORIGINAL[type(self.data)]
        missing = [name for name in known if not files.has(name)]
        if missing:
            yield error(
                f"{files.where()} lacks {few(missing)}; extract {self.archive} again, or "
                "download it again if it is cut"
            )
        other = [
            name
            for name, digest in known.items()
            if name not in missing
            and hashlib.md5(files.read(name), usedforsecurity=False).hexdigest() != digest
        ]
        if other:
            yield warning(
                f"{len(other)} files of {files.where()} are not the original ones by their MD5: "
                f"{few(other)}; if nobody has made a subset of them on purpose, download "
                f"{self.archive} again"
            )
        if not isinstance(files, MemoryTree) and (self.data.folder / self.archive).is_file():
            yield note(f"{self.archive} lies beside its files, and is not read")
        try:
            count, wanted = len(self.data.classes), 100 if type(self.data) is CIFAR100 else 10
        except DataError:
            return  # reported with the splits
        if count != wanted:
            yield error(
                f"{files.where(self.data.names[0])} names {count} classes, not {wanted}; it is of "
                f"another set: extract {self.archive} again"
            )
