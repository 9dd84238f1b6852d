"""`vitlab data check`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def run(words: Sequence[str]) -> None:
    """Say which dataset a folder holds, and what is wrong with it."""
    parser = argparse.ArgumentParser(
        "vitlab data check",
        description="Say which dataset a folder holds, what is wrong with it, and the remedy. The "
        "exit status is 1 if there is an error. The data are not changed; an index of their files "
        "may be kept in .vitlab beside them.",
    )
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder of one dataset, extracted or in its archives, or one of the folders above it",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="decode every file, not only some, and look for pictures that are in two splits",
    )
    given = parser.parse_args(words)

    from vitlab.data.check import check

    report = check(given.root, given.deep)
    report.show()
    if report.errors:
        sys.exit(1)
