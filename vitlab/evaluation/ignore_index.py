"""Masks without any label: nothing to learn from, nothing to score on."""

from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.data.samples import spread
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.probes.metrics import IoUCounts


def require_labels(data: VisionDataModule, split: str) -> None:
    """Look at masks spread over a split until one has a label; refuse if none of them has.

    Raises:
        ValueError: the split, and what to do.
    """
    images = data.segmentation_dataset(split, SegmentationSquare(16))  # masks keep their size
    looked = spread(len(images))
    if not any((images[index].mask != IGNORE_INDEX).any() for index in looked):
        raise ValueError(
            f"all pixels of all {len(looked)} masks looked at, spread over split {split!r} of "
            f"{type(data).__name__}, are void, so there is nothing to learn from or to score; "
            "check the masks with `vitlab data check`"
        )


def require_scored_pixels(overlaps: IoUCounts, data: VisionDataModule) -> None:
    """Refuse a score of test images without any label.

    Raises:
        ValueError: the split, and what to do.
    """
    if not overlaps.truth.any():
        raise ValueError(
            f"all pixels of all {len(overlaps)} scored masks of split {data.val_split!r} of "
            f"{type(data).__name__} are void, so there is no score; check the masks with "
            "`vitlab data check`, or score other or more images"
        )
