"""`vitlab curves`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitlab.visualization.curves import curves


def run(words: Sequence[str]) -> None:
    """Draw the curves of runs."""
    parser = argparse.ArgumentParser(
        "vitlab curves", description=(curves.__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of runs; seed* folders with one parent are one arm: runs/dino/seed*",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("curves"), help="the files to write, without ending"
    )
    given = parser.parse_args(words)
    curves(given.runs, given.out)
