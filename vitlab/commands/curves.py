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
    """Draw the curves of runs, and write and print tables."""
    options = parse(CurvesOptions, words, "vitlab curves", EXAMPLES)
    import matplotlib.pyplot as plt

    from vitlab.visualization.curves import degradation, draw, read, summary

    table, out = read(options.runs), options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(table)
    figure.savefig(out.with_suffix(".png"), dpi=120)
    with plt.rc_context({"svg.hashsalt": "vitlab"}):  # the same runs give the same file
        figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    text = summary(table) + "\n" + degradation(table)
    out.with_suffix(".md").write_text(text)
    print(text, end="")
