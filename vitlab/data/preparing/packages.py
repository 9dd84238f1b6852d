"""The archives of the data sets as their authors distribute them: found, told apart, verified."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from vitlab.data.ade20k import ADE20K
from vitlab.data.cityscapes import Cityscapes
from vitlab.data.errors import DataError
from vitlab.data.files import Directory
from vitlab.data.imagenet import DEVKIT, ImageNet
from vitlab.data.layout import Distributed, Layout
from vitlab.data.preparing.members import CHUNK, Member, members
from vitlab.data.sbd import LAYOUT as SBD_LAYOUT
from vitlab.data.voc import VOC2012

NESTED = "ILSVRC2012_img_train.tar"  # a tar of tars, one for each class
# those of ImageNet, VOC and SBD are torchvision's too; for Cityscapes none is published
MD5 = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb",
    "ADEChallengeData2016.zip": "7328b3957e407ddae1d3cbf487f149ef",
}
_VOC_PLACES = (*VOC2012.layout.nested, "VOCdevkit")
_DEVKIT = Distributed(f"{DEVKIT}.tar.gz", holds=DEVKIT)
SBD_ARCHIVE, SBD_FOLDER = "benchmark.tgz", "benchmark_RELEASE"
_SBD = Distributed(SBD_ARCHIVE, holds=SBD_FOLDER)
# each archive, and where it may lie below the root
OFFICIAL: tuple[tuple[Distributed, tuple[str, ...]], ...] = (
    *((archive, ImageNet.layout.nested) for archive in (*ImageNet.layout.archives, _DEVKIT)),
    *((archive, _VOC_PLACES) for archive in VOC2012.layout.archives),
    (_SBD, (*_VOC_PLACES, "SBD", "sbd")),
    *((archive, ADE20K.layout.nested) for archive in ADE20K.layout.archives),
    *((archive, Cityscapes.layout.nested) for archive in Cityscapes.layout.archives),
)
# sets in a single archive, which may have been extracted to another of their usual places
_SINGLE: dict[str, Layout] = {
    **{archive.name: VOC2012.layout for archive in VOC2012.layout.archives},
    **{archive.name: ADE20K.layout for archive in ADE20K.layout.archives},
    _SBD.name: SBD_LAYOUT,
}


@dataclass(frozen=True)
class Package:
    """An official archive, and where its content goes.

    Attributes:
        path: of the archive.
        home: folder it is extracted in by custom: where it lies, or the one above for archives of
            single classes.
        folder: folder it is extracted in here; the same unless another target was given.
        holds: folder of the data set that it becomes, below `folder`.
        at: folder below `folder` that the members go to, "" where they bring their own.
        dropped: first part of the members' names that `folder` already stands for, or "".
        skipped: names of links and devices in it, once it has been read.
    """

    path: Path
    home: Path
    folder: Path
    holds: str
    at: str
    dropped: str = ""
    skipped: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name for its unfinished work, which must not go on with another archive."""
        state = self.path.stat()
        return f"{self.path.name}.{state.st_size:x}.{state.st_mtime_ns:x}"

    @property
    def of_class(self) -> bool:
        """Whether it is the archive of a single class of ImageNet."""
        return self.path.parent == self.home / "train"

    def members(self) -> Iterator[Member]:
        """Its files; names are paths below `folder`. Of two with one name the first counts.

        Raises:
            DataError: if it is cut or damaged, or a member leads out of the tree.
        """
        seen: set[str] = set()
        self.skipped.clear()
        for member in members(self.path, self.path.name == NESTED, self.skipped):
            name = f"{self.at}/{member.name}" if self.at else member.name
            if self.dropped:
                name = name.removeprefix(f"{self.dropped}/")
            if name not in seen:
                seen.add(name)
                yield replace(member, name=name)

    def wants(self, name: str) -> bool:
        """Whether a file is of the data set, not a license or the like beside it."""
        return bool(self.dropped) or name.startswith(f"{self.holds}/")

    def verify(self, advance: Callable[[int], None]) -> bool:
        """Compare its md5 sum with the published one; False if none is.

        Args:
            advance: is told the number of bytes each time some are read.

        Raises:
            DataError: if they differ.
        """
        known = MD5.get(self.path.name)
        if known is None:
            return False
        digest = hashlib.md5(usedforsecurity=False)
        with open(self.path, "rb") as file:
            for chunk in iter(partial(file.read, CHUNK), b""):
                digest.update(chunk)
                advance(len(chunk))
        if digest.hexdigest() != known:
            raise DataError(
                f"{self.path} has the md5 sum {digest.hexdigest()}, the official archive {known}: "
                "it is damaged or another one; download it again"
            )
        return True


def find_packages(root: Path, out: Path, notes: list[str]) -> list[Package]:
    """Official archives in a folder and its usual subfolders that are to be extracted.

    Args:
        root: the folder.
        out: where the content goes, in the same subfolders.
        notes: grows by what is left alone, and why.
    """
    found: dict[Path, Package] = {}
    for archive, places in OFFICIAL:
        for place in places:
            home, folder = root / place, out / place
            for path in sorted(home.glob(archive.name)):
                if path in found or not path.is_file():
                    continue
                package = _package(archive, path, home, folder)
                reason = _unwanted(package, archive, root)
                if reason:
                    notes.append(f"{path} is left alone: {reason}")
                else:
                    found[path] = package
    return list(found.values())


def _package(archive: Distributed, path: Path, home: Path, folder: Path) -> Package:
    holds = archive.holds.format(stem=path.stem)
    top = PurePosixPath(holds).parts[0]
    # a folder that the archive would bring itself, such as ADEChallengeData2016
    dropped = top if not archive.at and folder.name == home.name == top else ""
    return Package(path, home, folder, holds, archive.at.format(stem=path.stem), dropped)


def _unwanted(package: Package, archive: Distributed, root: Path) -> str:
    """Why an archive must not be extracted, or ""."""
    if archive.holds == "val":
        for folder in (package.home / "val", package.folder / "val"):
            listing = Directory(folder).listing()
            if listing and listing.folders:
                return f"{folder} is sorted into class folders"
    layout = _SINGLE.get(archive.name)
    usual = [package.home / package.holds, package.folder / package.holds]
    if layout and not package.dropped and not any(place.exists() for place in usual):
        for place in layout.nested:
            if layout.fits(Directory(root / place)):
                return f"the data set is extracted in {root / place}"
    return ""
