"""The check of a dataset: its counts, files, masks and everything that is known to go wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.data.check.dataset_checks import (
    ADE20KCheck,
    CIFARCheck,
    CityscapesCheck,
    DatasetCheck,
    FolderCheck,
    VOC2012Check,
)
from vitlab.data.check.imagenet import ImageNetCheck
from vitlab.data.check.inspection import inspect
from vitlab.data.check.recognition import recognize
from vitlab.data.check.report import CheckReport, Finding, error, note, warning
from vitlab.data.check.split_summary import SplitSummary, common_faults
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder, ImageNet
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.samples import Samples

CHECKS: dict[Any, type[DatasetCheck]] = {
    ImageNet: ImageNetCheck,
    VOC2012: VOC2012Check,
    ADE20K: ADE20KCheck,
    Cityscapes: CityscapesCheck,
    CIFAR10: CIFARCheck,
    CIFAR100: CIFARCheck,
    Folder: FolderCheck,
}


def check(root: Path, deep: bool = False) -> CheckReport:
    """Recognize the dataset in a folder and find its faults.

    Lists are compared with folders, counts with the known ones, images with their masks by the
    headers of all; some files are decoded, or with `deep` all.

    Args:
        root: folder of one dataset, or one of the usual folders above it.
        deep: decode every file, and find images that are in two splits.
    """
    report = CheckReport()
    try:
        data = recognize(root)
    except DataError as problem:
        report.findings.append(error(str(problem)))
        return report
    specific = CHECKS[type(data)](data)
    report.place = data.files.where()
    try:
        report.dataset = f"{type(data).__name__}, {specific.variant()}"
        report.findings += specific.folder_faults()
    except DataError as problem:
        report.dataset = type(data).__name__
        _add(report, str(problem))
    checked: set[str] = set()
    digests: dict[bytes, str] = {}
    for split in data.splits:
        try:
            samples = data.samples(split)
            report.splits[split] = _describe(data, samples)
        except DataError as problem:
            _add_absent(report, specific, split, problem)
            continue
        report.findings += _count(data, split, len(samples))
        summary = SplitSummary(data, split, _unchecked(samples, checked))
        for sample in inspect(summary.samples, deep, f"reading {split}"):
            summary.add(sample)
        report.findings += common_faults(summary)
        report.findings += specific.split_faults(summary)
        report.findings += _duplicates(summary, digests)
    if not report.splits and not report.errors:
        report.findings.append(error(f"{report.place} has none of {', '.join(data.splits)}"))
    return report


def _add_absent(
    report: CheckReport, specific: DatasetCheck, split: str, problem: DataError
) -> None:
    """A note for a split that is optional, else an error."""
    data = specific.data
    optional = specific.absent_split(split) if isinstance(problem, MissingFolderError) else ""
    unused = isinstance(data, Folder) and split not in (data.train_split, data.val_split)
    if optional or unused:
        report.findings.append(note(optional or str(problem)))
    else:
        _add(report, str(problem))


def _add(report: CheckReport, text: str) -> None:
    """An error, unless it is reported already."""
    if text not in {finding.text for finding in report.findings}:
        report.findings.append(error(text))


def _describe(data: VisionDataModule, samples: Samples) -> str:
    words = f"{len(samples):,} images"
    if samples.masks is not None:
        return f"{words} with masks of {data.num_classes} classes"
    if samples.labels is None:
        return words
    counts = np.bincount(samples.labels)
    least, most = int(counts.min()), int(counts.max())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{words} of {data.num_classes:,} classes, {each} of each"


def _count(data: VisionDataModule, split: str, count: int) -> Iterator[Finding]:
    known = data.counts.get(split, count)
    if count < known:
        yield warning(
            f"{split} holds {count:,} of {known:,} images: a subset, or an extraction that stopped",
        )
    elif count > known:
        yield error(
            f"{split} holds {count:,} images, but the dataset has {known:,}; something else is in "
            "its folders or lists: restore them from the archives",
        )


def _unchecked(samples: Samples, checked: set[str]) -> Samples:
    """The samples whose images are in no earlier split; adds them to `checked`."""
    where = [samples.files.where(samples.image(at)) for at in range(len(samples))]
    new = [at for at, name in enumerate(where) if name not in checked]
    checked.update(where)
    return samples.take(np.array(new, dtype=np.int64))


def _duplicates(summary: SplitSummary, digests: dict[bytes, str]) -> Iterator[Finding]:
    """Images under two names; with one in each split, scores are too good."""
    pairs = []
    for digest, name in summary.digests:
        if digest in digests:
            pairs.append(f"{digests[digest]} = {name}")
        digests.setdefault(digest, name)
    if pairs:
        text = "makes scores too good: remove it from train:"
        yield warning(
            f"{len(pairs)} pictures are there twice; one in train and one in val {text}",
            tuple(pairs),
        )
