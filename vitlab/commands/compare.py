"""`vitlab compare`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitlab.evaluation.compare import compare


def run(words: Sequence[str]) -> None:
    """Put evaluations side by side."""
    text = (compare.__doc__ or "").partition("Args:")[0]
    parser = argparse.ArgumentParser("vitlab compare", description=text)
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="folders of evaluations, their result.json, or folders above them",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="name of the files to write, without ending: .md, .csv, .tex, .png and .svg",
    )
    parser.add_argument(
        "--baseline",
        default="",
        help="row that others are compared with, by its label; in each table the first",
    )
    parser.add_argument(
        "--references", action="store_true", help="show published numbers as well, apart from ours"
    )
    given = parser.parse_args(words)
    compare(given.results, given.out, given.baseline, given.references)
