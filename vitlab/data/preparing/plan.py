"""What there is to do, found before anything is done."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress

from vitlab.data.ade20k import ADE20K
from vitlab.data.cityscapes import Cityscapes
from vitlab.data.errors import DataError
from vitlab.data.imagenet import ImageNet
from vitlab.data.layout import around, few
from vitlab.data.preparing.extraction import Extraction, compare
from vitlab.data.preparing.links import find_links
from vitlab.data.preparing.packages import (
    NESTED,
    OFFICIAL,
    SBD_ARCHIVE,
    SBD_FOLDER,
    Package,
    find_packages,
)
from vitlab.data.preparing.report import amount, counted
from vitlab.data.preparing.voc import (
    LIST,
    MASK_SIZE,
    MASKS,
    Boundaries,
    Colored,
    find_boundaries,
    find_colored,
    voc_folder,
)
from vitlab.data.sbd import SBD
from vitlab.data.voc import EXTRA, VOC2012

KINDS = (ImageNet, VOC2012, ADE20K, Cityscapes)
BLOCK = 4096  # bytes that a file system may waste on each file
ASIDE = "train_archives"  # where archives of single classes are kept once they are extracted
TRAINAUG = 10_582  # masks of SBD and VOC, where they cannot be counted yet


@dataclass
class Plan:
    """What there is to do.

    Attributes:
        root: the folder to prepare.
        target: the one to write to.
        extractions: official archives, compared with the folders they hold.
        covered: archives of classes which the archive of all classes holds too.
        made: what is written to the target, where that is another folder.
        links: from the target to what is extracted in the root: where each leads, and its place.
        colored: VOC masks that hold colors.
        boundaries: masks of SBD to make.
        awaited: whether these are known only once archives are extracted.
        aside: archives to move, and their new places.
        notes: what is left alone, and why.
    """

    root: Path
    target: Path
    extractions: list[Extraction] = field(default_factory=list)
    covered: list[Package] = field(default_factory=list)
    made: set[Path] = field(default_factory=set)
    links: list[tuple[Path, Path]] = field(default_factory=list)
    colored: Colored | None = None
    boundaries: Boundaries | None = None
    awaited: bool = False
    aside: list[tuple[Path, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> bool:
        """Whether the target is another folder."""
        return self.target != self.root

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(list(self.steps()))

    @property
    def folders(self) -> set[Path]:
        """All folders that may hold unfinished work."""
        return {
            self.target,
            *(work.package.folder for work in self.extractions),
            *(self.target / place for place in VOC2012.layout.nested),
        }

    def steps(self) -> Iterator[str]:
        """One line for each thing to do."""
        groups: dict[tuple[str, Path], list[Extraction]] = {}
        for work in self.extractions:
            package = work.package
            place = package.folder / ("train" if package.of_class else package.holds)
            name = "archives of single classes" if package.of_class else package.path.name
            if work.needed:
                groups.setdefault((name, place), []).append(work)
        for (name, place), works in groups.items():
            yield f"{name} to {place}: {counted((work.files, work.size) for work in works)}"
        if self.links:
            places = few([str(place.relative_to(self.target)) for _, place in self.links])
            yield f"{len(self.links):,} links to what is extracted in {self.root}: {places}"
        if self.colored and not self.colored.done:
            yield (
                f"{len(self.colored.names):,} masks from colors to indices in "
                f"{self.colored.target}; the colored ones stay in {self.colored.stay}"
            )
        if self.boundaries:
            masks = f"{len(self.boundaries.masks):,} masks to {EXTRA}"
            listing = "" if self.boundaries.listed else f", {len(self.boundaries.names):,} names "
            yield f"SBD: {masks}" + (listing and f"{listing}to {LIST}")
        elif self.awaited:
            yield f"SBD: masks to {EXTRA}, names to {LIST}"
        if self.aside:
            names = few([path.name for path, _ in self.aside])
            yield f"{len(self.aside):,} extracted archives from train to {ASIDE}: {names}"

    def refuse_full_disk(self) -> None:
        """Compare what is still to be written with the room there is.

        Raises:
            DataError: if it does not suffice.
        """
        wanted: Counter[Path] = Counter()
        for work in self.extractions:
            wanted[_existing(work.package.folder)] += work.size + BLOCK * work.files
        if self.colored and not self.colored.done:
            wanted[_existing(self.colored.target)] += self.colored.size
        if self.boundaries:
            wanted[_existing(self.target)] += self.boundaries.size
        elif self.awaited:
            wanted[_existing(self.target)] += TRAINAUG * MASK_SIZE
        disks: dict[int, Path] = {}
        for folder in wanted:
            disks.setdefault(folder.stat().st_dev, folder)
        for device, folder in disks.items():
            needed = sum(size for place, size in wanted.items() if place.stat().st_dev == device)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise DataError(
                    f"the disk of {folder} has {amount(free)} free, {amount(needed)} are needed; "
                    "free some, or write to another disk with --out DIR; or do not extract: vitlab "
                    "reads plain tar and zip archives as they are"
                )


def make_plan(root: Path, target: Path, verify: bool, progress: Progress) -> Plan:
    """Find all there is to do; writes nothing.

    Args:
        root: the folder to prepare.
        target: the one to write to.
        verify: whether to compare md5 sums.
        progress: to show it.

    Raises:
        DataError: if there is no data set, or an archive is damaged or not the official one.
    """
    plan = Plan(root, target)
    packages = find_packages(root, target, plan.notes)
    _refuse_nothing(root, packages, plan.notes)
    if verify:
        _verify(packages, plan.notes, progress)
    whole = {package.home for package in packages if package.path.name == NESTED}
    for package in packages:
        if package.of_class and package.home in whole:
            plan.covered.append(package)
        else:
            plan.extractions.append(compare(package, progress))
    plan.notes += [note for work in plan.extractions for note in _notes(work)]
    classes = [package for package in packages if package.of_class]
    if plan.elsewhere:
        _plan_links(plan)
    else:
        plan.aside = [(one.path, one.home / ASIDE / one.path.name) for one in classes]
    for _, place in plan.aside:
        if place.exists():
            raise DataError(f"{place} is taken, and an archive is to be kept there; move it away")
    plan_masks(plan)
    return plan


def plan_masks(plan: Plan) -> None:
    """Find the masks to make; once archives are extracted, again.

    Raises:
        DataError: if lists or files of trainaug are missing, or images of val are in it.
    """
    source = voc_folder(plan.root) or voc_folder(plan.target)
    if source is not None:
        plan.colored = find_colored(source, _in_target(plan, source))
    packed = _packed(plan)
    if packed:  # what is in place may not be whole: their lists and files count only afterwards
        near = SBD_ARCHIVE in packed or SBD.near(around(plan.target)) is not None
        plan.awaited = near and (source is None or not (source / LIST).exists())
    elif source is not None:
        target = _in_target(plan, source)
        # where links or masks are still to be made, only the root has all files
        whole = voc_folder(plan.target) and not plan.links
        plan.boundaries = find_boundaries(target if whole else source, target)


def _plan_links(plan: Plan) -> None:
    """What is not made anew in another target appears there as a link."""
    for work in plan.extractions:
        if not work.linked:
            plan.made.add(work.package.folder / work.package.holds)
    found: list[tuple[Path, Path]] = []
    source = voc_folder(plan.root)
    if source is not None:
        place = _in_target(plan, source)
        if find_colored(source, place):
            plan.made.add(place / MASKS)
        sbd = any(work.package.path.name == SBD_ARCHIVE for work in plan.extractions)
        unlisted = not (source / LIST).exists()
        if (sbd and unlisted) or (not _packed(plan) and find_boundaries(source, place)):
            plan.made |= {place / EXTRA, place / LIST}
        found += find_links(source, place, plan.made, top=False)
        found += _link_to_sbd(plan, source)
    tops = {(work.package.home, work.package.folder) for work in plan.extractions}
    for home, folder in sorted(tops | {(plan.root, plan.target)}):
        found += find_links(home, folder, plan.made)
    # a folder that is linked, or made, needs no links in it
    taken = plan.made | {place for _, place in found}
    plan.links = sorted({pair for pair in found if taken.isdisjoint(pair[1].parents)})


def _packed(plan: Plan) -> set[str]:
    """Archives still to be extracted that SBD's masks depend on."""
    names = {work.package.path.name for work in plan.extractions if work.needed}
    return names & {SBD_ARCHIVE, *(archive.name for archive in VOC2012.layout.archives)}


def _link_to_sbd(plan: Plan, source: Path) -> Iterator[tuple[Path, Path]]:
    """SBD may lie above the root, where it would not be found from the target."""
    sbd = SBD.near(around(source))
    if sbd is not None:
        folder, place = Path(sbd.files.where()), plan.target / SBD_FOLDER / "dataset"
        if not folder.is_relative_to(plan.root) and not os.path.lexists(place):
            yield folder, place


def _in_target(plan: Plan, folder: Path) -> Path:
    for top in (plan.target, plan.root):
        if folder.is_relative_to(top):
            return plan.target / folder.relative_to(top)
    raise AssertionError("only folders of the root or the target are asked for")


def _refuse_nothing(root: Path, packages: list[Package], notes: list[str]) -> None:
    if packages or notes or any(kind.layout.find(root) for kind in KINDS):
        return
    names = list(dict.fromkeys(archive.name for archive, _ in OFFICIAL))
    raise DataError(
        f"{root} holds neither an official archive nor an extracted data set; put the archives "
        f"into it as they were downloaded: {', '.join(names)}"
    )


def _verify(packages: list[Package], notes: list[str], progress: Progress) -> None:
    unknown = []
    for package in packages:
        name = package.path.name
        task = progress.add_task(f"md5 sum of {name}", total=package.path.stat().st_size)
        if not package.verify(partial(progress.advance, task)):
            unknown.append(name)
        progress.remove_task(task)
    if unknown:
        notes.append(f"not verified, since no md5 sum of theirs is published: {few(unknown)}")


def _notes(work: Extraction) -> Iterator[str]:
    name = work.package.path.name
    if work.others:
        yield (
            f"{len(work.others):,} files are not those of {name}: {few(work.others)}; they stay as "
            "they are; to have the archive's, move them away and run this again"
        )
    if work.package.skipped:
        yield f"links and devices in {name} are left out: {few(work.package.skipped)}"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
