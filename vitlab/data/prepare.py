"""`vitlab data prepare`: the remedies that are safe to do without asking."""

import os
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from vitlab.data.errors import DataError
from vitlab.data.preparing.extraction import compare, extract
from vitlab.data.preparing.links import make_links
from vitlab.data.preparing.plan import KINDS, Plan, make_plan, plan_masks
from vitlab.data.preparing.report import Report
from vitlab.data.preparing.voc import (
    MASKS,
    exchange_stopped,
    finish_exchange,
    make_boundaries,
    mend_colored,
)
from vitlab.data.preparing.workshop import alone, has_unfinished, tidy
from vitlab.data.voc import VOC2012


def prepare(
    root: Path, out: Path | None = None, dry_run: bool = False, verify: bool = False
) -> Report:
    """Extract official archives, make SBD's masks, mend colored ones; deletes nothing, resumes.

    * ILSVRC2012_img_train.tar becomes train/<wnid>/, and ILSVRC2012_img_val.tar a flat val/. Its
      labels come from ILSVRC2012_devkit_t12.tar.gz: nothing needs sorting. Archives of single
      classes left in train/ are extracted, and then moved to train_archives/, out of the way;
    * VOCtrainval_11-May-2012.tar becomes VOCdevkit/VOC2012, SBD's benchmark.tgz benchmark_RELEASE,
      and the zip files of ADE20K and Cityscapes the folders they hold;
    * SBD's MATLAB masks become VOC2012/SegmentationClassAug/*.png, with a list trainaug.txt;
    * VOC masks that hold colors become indices; the colored ones stay in SegmentationClassRGB/.

    What is done is not done again. A file that is there but not the archive's stays, and is named.

    Args:
        root: folder with the archives as they were downloaded (ILSVRC2012_img_train.tar,
            ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz, VOCtrainval_11-May-2012.tar,
            benchmark.tgz, ADEChallengeData2016.zip, leftImg8bit_trainvaltest.zip,
            gtFine_trainvaltest.zip; any of them, best those of one data set), or with an extracted
            data set, or one of the usual folders above it. An extraction that stopped is
            completed, whoever began it: files that are missing or cut short are written, all
            others stay as they are. To keep only some of the classes, move the archive away first.
        out: folder to write to instead of `root`, where that is read-only or its disk is full.
            What is extracted in `root` appears in it as links.
        dry_run: only say what would be done, with the number of files and bytes; write nothing.
            Without it, files are made in a hidden folder .vitlab and appear when they are whole, a
            new folder with all of its files at once. If that is killed, the same command goes on
            where it stopped.
        verify: first compare the md5 sum of each archive with the published one. Reads all of
            them, so it takes as long as copying them would.

    Returns:
        What was done; it is printed, too.

    Raises:
        DataError: if there is nothing to prepare, an archive is damaged or not the official one,
            the disk has not enough room, or a folder cannot be written.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one with the archives as --root")
    # another spelling of the same folder is no other target
    target = out.absolute() if out and out.resolve() != root.resolve() else root.absolute()
    try:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            report = _prepare(root.absolute(), target, dry_run, verify, progress)
    except OSError as error:
        place = error.filename2 or error.filename or target
        raise DataError(
            f"cannot read or write {place} ({error.strerror or error}); check permissions and the "
            "room on the disk, then run this again: it goes on where it stopped"
        ) from error
    print(report)
    return report


def _prepare(root: Path, target: Path, dry_run: bool, verify: bool, progress: Progress) -> Report:
    places = [target / place for place in VOC2012.layout.nested]
    stopped = [folder for folder in places if exchange_stopped(folder)]
    steps = [f"{folder / MASKS}: the last step of an exchange that stopped" for folder in stopped]
    if dry_run and stopped:
        return Report(root, target, True, tuple(steps), ("what else there is shows after it",))
    if stopped:
        with alone(target):
            for folder in stopped:
                finish_exchange(folder)
    plan = make_plan(root, target, verify, progress)
    if dry_run:
        return Report(root, target, True, tuple(plan.steps()), tuple(plan.notes))
    if plan.needed or any(map(has_unfinished, plan.folders)):
        plan.refuse_full_disk()
        with alone(target):
            steps += _carry_out(plan, progress)
            for folder in plan.folders:
                if folder != target:  # `alone` tidies it, with the lock in it, at its end
                    tidy(folder)
    moved = dict(plan.aside)
    spent = [work.package.path for work in plan.extractions if work.spent]
    archives = tuple(moved.get(path, path) for path in spent)
    found = [kind.layout.find(target) for kind in KINDS]
    folders = tuple(dict.fromkeys(place.folder for place in found if place))
    return Report(root, target, False, tuple(steps), tuple(plan.notes), folders, archives)


def _carry_out(plan: Plan, progress: Progress) -> list[str]:
    """Do it all; returns the steps as they turned out."""
    if plan.elsewhere:
        make_links(plan.root, plan.target, plan.links, plan.made)
    for work in plan.extractions:
        if work.needed:
            extract(work, progress)
    for package in plan.covered:
        rest = compare(package, progress)
        plan.extractions.append(rest)
        if rest.needed:
            extract(rest, progress)
    # as they turn out to be now, first those that the others are copied from
    masks = replace(plan, links=[], extractions=[])
    plan_masks(masks)
    plan.colored = masks.colored
    if plan.colored and not plan.colored.done:
        mend_colored(plan.colored, progress)
        plan_masks(masks)
    plan.boundaries, plan.awaited = masks.boundaries, False
    if plan.boundaries:
        make_boundaries(plan.boundaries, progress)
    for path, place in plan.aside:
        place.parent.mkdir(exist_ok=True)
        os.rename(path, place)
    return list(plan.steps())
