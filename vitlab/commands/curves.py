"""`vitlab curves`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.commands.parser import POSITIONAL, parse

EXAMPLES = """\
examples:
  vitlab curves runs/dino/seed* runs/dino_entmax/seed* --out figures/dino
"""


@dataclass(frozen=True)
class CurvesOptions:
    """Draw the curves of runs, and print tables: baselines, last epoch, losses since the peak.

    Args:
        runs: folders of runs; seed* folders with one parent are one arm, such as runs/dino/seed*
        out: the files to write, without ending: a figure (.png and .svg) and tables (.md)
    """

    runs: list[Path] = field(metadata=POSITIONAL)
    out: Path = Path("curves")


def run(words: Sequence[str]) -> None:
    """Draw the curves of runs."""
    options = parse(CurvesOptions, words, "vitlab curves", EXAMPLES)
    from vitlab.visualization.curves import curves

    curves(options.runs, options.out)
