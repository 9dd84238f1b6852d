"""Recognizing a dataset, and looking for everything that is known to go wrong with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.data.check.ade20k import ADE20KCheck
from vitlab.data.check.cifar import CIFARCheck
from vitlab.data.check.cityscapes import CityscapesCheck
from vitlab.data.check.dataset_check import DatasetCheck
from vitlab.data.check.folder import FolderCheck
from vitlab.data.check.imagenet import ImageNetCheck
from vitlab.data.check.inspection import inspect
from vitlab.data.check.report import CheckReport, Finding, error, note, warning
from vitlab.data.check.split_summary import SplitSummary, findings
from vitlab.data.check.unknown_layout import FOLDERS, reason, tiny_imagenet
from vitlab.data.check.voc import VOC2012Check
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets.ade20k import ADE20K
from vitlab.data.datasets.cifar import CIFAR10, CIFAR100
from vitlab.data.datasets.cityscapes import Cityscapes
from vitlab.data.datasets.folder import Folder
from vitlab.data.datasets.imagenet import ImageNet
from vitlab.data.datasets.voc import VOC2012
from vitlab.data.errors import DataError, MissingFolderError
from vitlab.data.samples import Samples
from vitlab.data.storage import FolderTree

KINDS: dict[Any, type[DatasetCheck]] = {
    ImageNet: ImageNetCheck,
    VOC2012: VOC2012Check,
    ADE20K: ADE20KCheck,
    Cityscapes: CityscapesCheck,
    CIFAR10: CIFARCheck,
    CIFAR100: CIFARCheck,
    Folder: FolderCheck,
}


def check(root: Path, deep: bool = False) -> CheckReport:
    """Say which dataset a folder holds, and what is wrong with it.

    Lists are compared with folders, counts with the known ones, images with their masks by the
    headers of all; some files are decoded, or with `deep` all.

    Args:
        root: folder of one dataset, or one of the usual folders above it.
        deep: decode every file, and look for pictures that are in two splits.
    """
    report = CheckReport()
    try:
        data = recognize(root)
    except DataError as problem:
        report.findings.append(error(str(problem)))
        return report
    known = KINDS[type(data)](data)
    report.place = data.files.where()
    try:
        report.dataset = f"{type(data).__name__}, {known.variant()}"
        report.findings += known.faults()
    except DataError as problem:
        report.dataset = type(data).__name__
        _add(report, str(problem))
    seen: set[str] = set()
    digests: dict[bytes, str] = {}
    for split in data.splits:
        try:
            samples = data.samples(split)
            report.splits[split] = _words(data, samples)
        except DataError as problem:
            optional = known.lacking(split) if isinstance(problem, MissingFolderError) else ""
            if optional or (
                isinstance(data, Folder) and split not in (data.train_split, data.val_split)
            ):
                report.findings.append(note(optional or str(problem)))
            else:
                _add(report, str(problem))
            continue
        report.findings += _count(data, split, len(samples))
        fresh = _fresh(samples, seen)
        summary = SplitSummary(data, split, fresh)
        for look in inspect(fresh, deep, f"reading {split}"):
            summary.add(look)
        report.findings += findings(summary)
        report.findings += known.about(summary)
        report.findings += _twice(summary, digests)
    if not report.splits and not report.errors:
        report.findings.append(error(f"{report.place} has none of {', '.join(data.splits)}"))
    return report


def recognize(root: Path) -> VisionDataModule:
    """The dataset in a folder.

    Raises:
        DataError: if there is none that vitlab can read, or more than one.
    """
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"there is no folder {root}"
        raise DataError(f"{what}; give the folder that holds the dataset")
    found = {
        kind: place.files.where()
        for kind in KINDS
        if kind.layout.marks and (place := kind.layout.find(root)) is not None
    }
    if len(found) > 1:
        places = ", ".join(f"{kind.__name__} in {place}" for kind, place in found.items())
        raise DataError(
            f"{root} holds several datasets: {places}; keep each in a folder of its own, and give "
            "the folder of one"
        )
    if ImageNet in found and (tiny := tiny_imagenet(FolderTree(root))):
        raise DataError(tiny)
    for kind in found:
        return kind(str(root), num_workers=0)
    _refuse_other_level(root)
    why = reason(root)
    if why:
        raise DataError(why)
    return Folder(str(root), num_workers=0)


def _refuse_other_level(root: Path) -> None:
    """Name the folder to give where a dataset lies elsewhere below the one given, or around it."""
    top = FolderTree(root)
    below = [top.below(name) for name in top.folders()[:FOLDERS]]
    below += [each.below(name) for each in below for name in each.folders()[:FOLDERS]]
    around = FolderTree(root.absolute().parent)
    inside = {mark.split("/")[0] for kind in KINDS for mark in kind.layout.marks}
    places = [*below, around] if root.absolute().name in inside else below
    for files in places:
        for kind in KINDS:
            # VOC2007 is laid out alike, and told apart by its name alone
            if "VOC2007" not in files.where() and kind.layout.marks and kind.layout.fits(files):
                raise DataError(
                    f"{kind.__name__} lies in {files.where()}, not in {root}; give --root "
                    f"{files.where()}"
                )


def _add(report: CheckReport, text: str) -> None:
    """An error, unless a more exact one has said the same."""
    if text not in {finding.text for finding in report.findings}:
        report.findings.append(error(text))


def _words(data: VisionDataModule, samples: Samples) -> str:
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


def _fresh(samples: Samples, seen: set[str]) -> Samples:
    """The samples whose images no earlier split has shown."""
    where = [samples.files.where(samples.image(at)) for at in range(len(samples))]
    new = [at for at, name in enumerate(where) if name not in seen]
    seen.update(where)
    return replace(
        samples,
        images=samples.images[new],
        labels=None if samples.labels is None else samples.labels[new],
        masks=None if samples.masks is None else samples.masks[new],
    )


def _twice(summary: SplitSummary, digests: dict[bytes, str]) -> Iterator[Finding]:
    """Pictures under two names; with one in each split, scores are too good."""
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
