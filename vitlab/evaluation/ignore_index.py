"""Masks without any labeled pixel: nothing to learn from, nothing to score on."""

from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.data.samples import spread
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.errors import InputError
from vitlab.probes.metrics import IoUCounts, PerImageCounts


def check_labels(data: VisionDataModule, split: str) -> None:
    """Look at masks spread over a split until one has a label; refuse if none of them has.

    Raises:
        InputError: no label in any mask.
    """
    images = data.segmentation_dataset(split, SegmentationSquare(16))  # masks keep their size
    looked = spread(len(images))
    if not any((images[index].mask != IGNORE_INDEX).any() for index in looked):
        raise InputError(
            f"all pixels of all {len(looked)} masks looked at, spread over split {split!r} of "
            f"{type(data).__name__}, are void, so there is nothing to learn from or to score; "
            "check the masks with `vitlab data check`",
            field="data",
        )


def check_scored(counts: PerImageCounts, data: VisionDataModule) -> None:
    """Refuse a score of test images without any label.

    Raises:
        InputError: no labeled pixel in the scored images.
    """
    if isinstance(counts, IoUCounts) and not counts.truth.any():
        raise InputError(
            f"all pixels of all {len(counts)} scored masks of split {data.val_split!r} of "
            f"{type(data).__name__} are void, so there is no score; check the masks with "
            "`vitlab data check`, or score other or more images",
            field="data",
        )
