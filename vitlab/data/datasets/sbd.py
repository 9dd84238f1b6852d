"""SBD, the extra masks for PASCAL VOC (Hariharan et al., Semantic Contours from Inverse Detectors).

Its 11,355 images are VOC's own; many are in VOC 2012's validation list, which training must not
see.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitlab.data.errors import DataError
from vitlab.data.storage import FileTree, Layout, text

LAYOUT = Layout(
    marks=("cls/*.mat", "train.txt", "val.txt"),
    nested=(
        *("benchmark_RELEASE/dataset", "benchmark_RELEASE", "SBD", "sbd", "dataset", ""),
        *("SBD/benchmark_RELEASE/dataset", "sbd/benchmark_RELEASE/dataset"),
    ),
)


@dataclass(frozen=True)
class SBD:
    """The extracted `benchmark.tgz`.

    Attributes:
        files: below its folder `dataset`: masks cls/NAME.mat, images img/NAME.jpg.
        names: of all its images, in its lists for training and validation.
    """

    files: FileTree
    names: frozenset[str]

    @classmethod
    def near(cls, folders: Iterable[Path]) -> "SBD | None":
        """The first one in one of the folders, or None."""
        for folder in folders:
            found = LAYOUT.find(folder)
            if found is not None:
                lists = [text(found[0], name) for name in ("train.txt", "val.txt")]
                return cls(found[0], frozenset(" ".join(lists).split()))
            if (folder / "benchmark_RELEASE").is_dir():
                raise DataError(
                    f"SBD in {folder / 'benchmark_RELEASE'} is not whole: its folder dataset must "
                    f"hold {', '.join(LAYOUT.marks)}; extract benchmark.tgz again"
                )
        return None
