"""`vitlab data check`, `vitlab data voc-masks` and `vitlab data synthesize`."""

import sys
from functools import partial
from pathlib import Path

from vitlab.commands.parser import call
from vitlab.option_types import Amounts

_USUAL = Amounts()


def _check(root: Path, deep: bool = False) -> None:
    """Recognize the dataset in a folder and find its faults.

    Lists are compared with folders, counts with the known ones, images with their masks by the
    headers of all; some files are decoded, or with --deep all. The data are not changed. The exit
    code is 1 if there is an error.

    Args:
        root: folder of one dataset, or one of the usual folders above it
        deep: decode every file, and find images that are in two splits
    """
    from vitlab.data.check import check

    report = check(root, deep)
    report.show()
    if report.errors:
        sys.exit(1)


def _voc_masks(root: Path) -> None:
    """Turn colored masks of VOC 2012 into class indices, and masks of SBD into PNG files.

    The colored masks are kept in SegmentationClassRGB. SBD's become SegmentationClassAug, with a
    list trainaug.txt; training reads SBD's MATLAB files as well, only slower. Existing masks and
    lists stay, and an interrupted call is completed by the next one.

    Args:
        root: folder of the extracted VOC 2012 (or VOCdevkit, or the folder above it), with SBD's
            benchmark_RELEASE in, beside or above it
    """
    from vitlab.data.voc_masks import voc_masks

    voc_masks(root)


def _synthesize(root: Path, seed: int = 0, amounts: Amounts = _USUAL, processes: int = 0) -> None:
    """Draw miniature copies of ImageNet, VOC 2012, ADE20K and Cityscapes in their own layouts.

    Does nothing if the folder holds the same collection already. The folder appears when it is
    complete; an interrupted run leaves a `.partial` folder beside it, which the next one replaces.

    Args:
        root: folder to make; will hold imagenet, VOCdevkit, ADEChallengeData2016 and cityscapes
        seed: the same seed gives the same bytes, whatever the number of processes
        amounts: number of images of each set and split
        processes: number of parallel processes; 0 for one per 2,000 images, at most one per core
    """
    from vitlab.data.synthetic import synthesize

    synthesize(root, seed, amounts, processes)


check = partial(call, _check, prog="vitlab data check")
voc_masks = partial(call, _voc_masks, prog="vitlab data voc-masks")
synthesize = partial(call, _synthesize, prog="vitlab data synthesize")
