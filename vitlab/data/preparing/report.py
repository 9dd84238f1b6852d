"""What was prepared, in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitlab.data.layout import few


@dataclass(frozen=True)
class Report:
    """What was done, or would be; printed, it says so, and what comes next.

    Attributes:
        root: the folder that was prepared.
        target: the one that was written to.
        dry_run: whether it was only planned.
        steps: one line for each remedy.
        notes: one line for each thing that was left alone.
        folders: of the data sets that are ready now.
        spent: archives that hold nothing which is not on disk as well.
    """

    root: Path
    target: Path
    dry_run: bool
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    folders: tuple[Path, ...] = ()
    spent: tuple[Path, ...] = ()

    @property
    def freeable(self) -> int:
        """Bytes that deleting these archives would free; we do not."""
        return sum(path.stat().st_size for path in self.spent)

    def __str__(self) -> str:
        heading = "would do" if self.dry_run else "done"
        lines = [f"{self.target}: {heading if self.steps else 'nothing to do'}"]
        lines += [f"  {step}" for step in self.steps]
        lines += [f"  note: {note}" for note in self.notes]
        if self.spent:
            names = few([path.name for path in self.spent])
            lines.append(
                f"every file of {names} is on disk at its full size; deleting "
                f"{'it' if len(self.spent) == 1 else 'them'} would free {amount(self.freeable)}"
            )
        if self.dry_run:
            lines.append("nothing was written; run it without --dry_run true to do it")
        else:
            lines += [f"next: vitlab data check --root {folder}" for folder in self.folders]
        return "\n".join(lines)


def amount(size: int) -> str:
    """Bytes in words: 1.5 GB for 1,500,000,000."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def counted(sizes: Iterable[tuple[int, int]]) -> str:
    """Number of files and bytes, of pairs of both, in words."""
    files, size = (sum(column) for column in zip((0, 0), *sizes, strict=True))
    return f"{files:,} files, {amount(size)}"
