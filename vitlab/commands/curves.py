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
        out: the files to write, without ending: a figure (.png, .svg, .pdf) and tables (.md); the
            ending of a figure makes it the only format
        labels: names of the arms, one for each, or NAME=LABEL for some
        metrics: names of the scores, alike, such as miou/voc2012="mIoU on VOC"
    """

    runs: list[Path] = field(metadata=POSITIONAL)
    out: Path = Path("curves")
    labels: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


def run(words: Sequence[str]) -> None:
    """Draw the curves of runs, and write and print tables."""
    options = parse(CurvesOptions, words, "vitlab curves", EXAMPLES)
    from vitlab.atomic_io import write_bytes
    from vitlab.visualization.curves import degradation, draw, read, summary
    from vitlab.visualization.plots import save, without_ending

    table = read(options.runs, options.labels, options.metrics)
    save(draw(table), options.out)
    text = summary(table) + "\n" + degradation(table)
    stem = without_ending(options.out)
    write_bytes(stem.with_name(f"{stem.name}.md"), text.encode())
    print(text, end="")
