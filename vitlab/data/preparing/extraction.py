"""From an archive to the folder it holds: what lacks is made out of sight, then moved in."""

import os
import stat
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath

from rich.progress import Progress

from vitlab.data.errors import DataError
from vitlab.data.preparing.links import is_ours
from vitlab.data.preparing.members import Member
from vitlab.data.preparing.packages import Package
from vitlab.data.preparing.workshop import Workshop, is_cut


class State(Enum):
    """What there is of a member."""

    WHOLE = "in place"
    WAITING = "made, not yet in place"
    LACKING = "not there, or cut"
    OTHER = "something else of that name"


@dataclass
class Extraction:
    """An archive compared with the folder it holds.

    Attributes:
        package: the archive.
        files: number of files still to write.
        size: of these, in bytes.
        waiting: whether finished files wait to be moved to their place.
        linked: whether nothing is to be done since all is extracted beside the archive, while the
            target is elsewhere.
        anew: whether what is in the target is a link to what is extracted beside the archive, no
            longer whole, which gives way.
        others: files in place that are not those of the archive; they are left as they are.
    """

    package: Package
    files: int = 0
    size: int = 0
    waiting: bool = False
    linked: bool = False
    anew: bool = False
    others: list[str] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """Whether there is something to do."""
        return bool(self.files) or self.waiting

    @property
    def spent(self) -> bool:
        """Whether, once this is done, the archive holds nothing that is not on disk."""
        return not self.others and not self.package.skipped

    @property
    def shop(self) -> Workshop:
        """Where its files are made."""
        return Workshop(self.package.folder, self.package.key)


def compare(package: Package, progress: Progress) -> Extraction:
    """Find what an extraction has to do; writes nothing.

    Raises:
        DataError: if the archive is cut, a member leads out of the tree, or its folder is on
            another file system than what lies around it.
    """
    held = PurePath(package.holds)
    parts = [held, *held.parents[:-1]]
    anew = any(is_ours(package.home / part, package.folder / part) for part in parts)
    found = Extraction(package, anew=anew)
    beside = package.folder != package.home  # whether all of it is extracted beside the archive
    wanted = 0
    task = progress.add_task(f"comparing {package.path.name}", total=package.path.stat().st_size)
    for member in package.members():
        progress.update(task, completed=member.position)
        if package.wants(member.name):
            wanted += 1
            beside = beside and _held(package, member, package.home) is State.WHOLE
        match _state(found, member):
            case State.WAITING:
                found.waiting = True
            case State.LACKING:
                found.files += 1
                found.size += member.size
            case State.OTHER:
                found.others.append(member.name)
    progress.remove_task(task)
    if not wanted:
        raise DataError(
            f"{package.path} holds nothing of {package.holds}; it is another archive of that "
            "name, or empty: download it again"
        )
    if beside:
        return Extraction(package, linked=True)
    if found.needed:
        _refuse_other_disk(package)
    return found


def extract(work: Extraction, progress: Progress) -> None:
    """Do it; whoever kills this may run it again.

    Raises:
        DataError: if the archive is damaged; what is finished stays, out of sight.
        OSError: if the disk is full, or the like.
    """
    task = progress.add_task(f"extracting {work.package.path.name}", total=work.size)
    if work.files:
        for member in work.package.members():
            if _state(work, member) is State.LACKING:
                work.shop.write(member.name, member.chunks())
                progress.advance(task, member.size)
    work.shop.deliver()
    progress.remove_task(task)


def _state(work: Extraction, member: Member) -> State:
    held = State.LACKING if work.anew else _held(work.package, member, work.package.folder)
    if held is State.LACKING and work.shop.has(member.name, member.size):
        return State.WAITING
    return held


def _held(package: Package, member: Member, folder: Path) -> State:
    """State of a member in a folder. Sizes are compared, content only where a file is short."""
    path = folder / member.name
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return State.LACKING
    if not package.wants(member.name):
        return State.WHOLE  # archives share such names: the first one's stays
    if stat.S_ISREG(found.st_mode):
        if found.st_size == member.size:
            return State.WHOLE
        if found.st_size < member.size and is_cut(path, member.chunks()):
            return State.LACKING
    return State.OTHER


def _refuse_other_disk(package: Package) -> None:
    """Files can be moved to their place in one step only within a file system."""
    place = package.folder / package.holds
    existing = [path for path in (place, *place.parents) if path.exists()]
    around = next(path for path in (package.folder, *package.folder.parents) if path.exists())
    if existing[0].stat().st_dev != around.stat().st_dev:
        raise DataError(
            f"{existing[0]} is on another file system than {package.folder}, so nothing can appear "
            "in it in one step; extract to a folder of one file system with --out DIR"
        )
