"""What is extracted already and needs no remedy appears in another target folder as a link."""

import os
from collections.abc import Iterator
from pathlib import Path

from vitlab.data.imagenet import DEVKIT, SOLUTION

# what a folder of data sets may hold at its top
NAMES: tuple[str, ...] = (
    "train",
    "val",
    DEVKIT,
    SOLUTION,
    "VOCdevkit",
    "VOC2012",
    "ADEChallengeData2016",
)
NAMES += ("leftImg8bit", "gtFine", "benchmark_RELEASE", "SBD", "sbd")


def find_links(
    source: Path, target: Path, made: set[Path], top: bool = True, anew: bool = False
) -> Iterator[tuple[Path, Path]]:
    """What to link so that a folder holds all of another one that is not made anew.

    Args:
        source: the folder.
        target: the one to hold links.
        made: files and folders in it that are made anew, which must not be linked.
        top: whether only the parts of data sets are meant, not all that lies in it.
        anew: whether the target is itself a link, which `make_links` takes away.

    Yields:
        Where a link leads, and its place.
    """
    above = {parent for path in made for parent in path.parents}
    anew = anew or is_ours(source, target)
    for name in sorted(os.listdir(source)):
        old, new = source / name, target / name
        if name.startswith(".") or name.endswith(".tar") or (top and name not in NAMES):
            continue
        if new in made:
            continue
        if new in above and old.is_dir():
            yield from find_links(old, new, made, top=False, anew=anew)
        elif anew or not os.path.lexists(new):
            yield old, new


def is_ours(old: Path, new: Path) -> bool:
    """Whether there is a link made here, from the one to the other."""
    return new.is_symlink() and new.resolve() == old.resolve()


def make_links(root: Path, out: Path, pairs: list[tuple[Path, Path]], made: set[Path]) -> None:
    """Make them.

    Args:
        root: the folder that they lead to.
        out: the one that holds them.
        pairs: where each leads, and its place.
        made: what must not lie behind a link, since it is to be written.

    Raises:
        OSError: if one cannot be made.
    """
    for path in made:
        for place in (path, *path.parents):
            if place.is_relative_to(out) and is_ours(root / place.relative_to(out), place):
                place.unlink()  # from a time when nothing in it was to be made
    for old, new in pairs:
        new.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(old.resolve())
