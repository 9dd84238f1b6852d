"""The check of a dataset: its counts, files, masks and everything that is known to go wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitlab.data.check.dataset_faults import folder_faults, split_faults, variant
from vitlab.data.check.inspection import SplitSummary, inspect
from vitlab.data.check.recognition import recognize
from vitlab.data.check.report import CheckReport, Finding, error, note, warning
from vitlab.data.check.split_faults import common_faults
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets import Folder
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.profile import LabelProfile, check_scores
from vitlab.data.samples import Samples


def check(root: Path, deep: bool = False) -> CheckReport:
    """Recognize the dataset in a folder and find its faults.

    Args:
        root: folder of one dataset, or one of the usual folders above it.
        deep: decode every file, and find images that are in two splits.
    """
    report = CheckReport()
    splits: tuple[str, ...] = ()
    try:
        data = recognize(root)
        report.dataset, report.place = type(data).__name__, data.files.where()
        splits = data.splits
        report.dataset += f", {variant(data)}"
        for finding in folder_faults(data):  # up to what makes further ones impossible
            report.findings.append(finding)
    except DataError as problem:
        report.findings.append(error(str(problem)))
        if not report.dataset or isinstance(data, Folder):
            return report
    checked: set[str] = set()
    digests: dict[bytes, str] = {}
    profiles: dict[str, LabelProfile] = {}
    for split in splits:
        try:
            samples = data.samples(split)
            report.splits[split] = _describe(data, samples)
        except DataError as problem:
            optional = _optional(data, split, problem)
            if split == data.val_split and data.train_split in report.splits:  # k-NN scores it
                optional &= data.samples(data.train_split).labels is None or data.num_classes < 2
            report.findings.append((note if optional else error)(str(problem)))
            continue
        report.findings += _count(data, split, len(samples))
        summary = inspect(data, split, _unchecked(samples, checked), deep)
        report.findings += [*common_faults(summary), *split_faults(data, summary)]
        report.findings += _duplicates(summary, digests)
        if samples.masks is not None and len(summary.samples) == len(samples):
            profiles[split] = summary.profile
    if {data.train_split, data.val_split} <= report.splits.keys() and not report.errors:
        report.findings += _scores(data, profiles)
    if not report.splits and not report.errors:
        report.findings.append(error(f"{report.place} has none of {', '.join(data.splits)}"))
    report.findings = list(dict.fromkeys(report.findings))  # one fault may hinder all splits
    return report


def _optional(data: VisionDataModule, split: str, problem: DataError) -> bool:
    """Whether others do without a split; a part of one is a fault."""
    if isinstance(data, Folder):
        return split not in (data.train_split, data.val_split)
    part = data.files.has(split) or data.files.has(f"gtFine/{split}")
    return isinstance(problem, MissingFolderError) and not part


def _scores(data: VisionDataModule, profiles: dict[str, LabelProfile]) -> Iterator[Finding]:
    """Labels on which scores mean nothing, or little."""
    try:
        found = check_scores(data, data.train_split, known=profiles)
    except DataError as problem:
        without_labels = data.num_classes == 1 and data.samples(data.train_split).masks is None
        yield (warning if without_labels else error)(str(problem))
    else:
        # a part of a published set is reported as such, and shows what it shows
        yield from map(note if data.counts else warning, found)


def _describe(data: VisionDataModule, samples: Samples) -> str:
    if samples.labels is None:
        masks = f" with masks of {data.num_classes} classes" * (samples.masks is not None)
        return f"{len(samples):,} images{masks}"
    counts = np.bincount(samples.labels)
    each = f"{counts.min():,} to {counts.max():,}"
    return f"{len(samples):,} images of {data.num_classes:,} classes, {each} of each"


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
        yield warning(
            f"{len(pairs)} pictures are there twice; one in train and one in val makes scores too "
            "good: remove it from train:",
            tuple(pairs),
        )
