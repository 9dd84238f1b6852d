"""`vitlab data check`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlab.commands.parser import parse


@dataclass(frozen=True)
class DataCheckArguments:
    """Recognize the dataset in a folder, find its faults, and name the remedies.

    The exit status is 1 if there is an error. The data are not changed.

    Args:
        root: folder of one dataset, extracted or in its archives, or one of the folders above it
        deep: decode every file, not only a sample, and find images that are in two splits
    """

    root: Path
    deep: bool = False


def run(words: Sequence[str]) -> None:
    """Run `vitlab data check`."""
    arguments = parse(DataCheckArguments, words, "vitlab data check")

    from vitlab.data.check import check

    report = check(arguments.root, arguments.deep)
    report.show()
    if report.errors:
        sys.exit(1)
