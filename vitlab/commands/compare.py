"""`vitlab compare`: results of `vitlab evaluate` side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.commands.parser import POSITIONAL, parse

EXAMPLES = """\
  vitlab compare evaluations/
  vitlab compare evaluations/dino evaluations/dino_entmax --out table --references
  vitlab compare evaluations/ --labels dino=DINO dino_entmax="DINO, entmax" --out figures/scores.pdf
"""


@dataclass(frozen=True)
class CompareArguments:
    """Show results side by side: a table, and with --out Markdown, CSV, LaTeX and a plot.

    Results of one protocol, with the same settings and data, are a table; others are apart, with
    what differs. Folders named seed... with one parent hold seeds of one row, as `vitlab fit`
    lays them out. Differences are paired by seed and test image.

    Args:
        results: folders of evaluations, their result.json, or folders above them.
        out: name of the files to write, without ending: tables .md, .csv, .tex, and a plot .png,
            .svg, .pdf; the ending of a plot makes it the only format.
        baseline: row that others are compared with, by its label; in each table the first.
        references: show published numbers as well, apart from ours.
        labels: names of the rows, one for each, or NAME=LABEL for some; by default the arm, the
            folder above seed0, or the run.
        metrics: names of the scores, alike, such as miou="mIoU on VOC".
    """

    results: list[Path] = field(metadata=POSITIONAL)
    out: Path | None = None
    baseline: str = ""
    references: bool = False
    labels: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


def run(words: Sequence[str]) -> None:
    """Run the verb with the words behind it."""
    args = parse(CompareArguments, words, "vitlab compare", EXAMPLES)

    from vitlab.atomic_io import write_bytes
    from vitlab.evaluation import comparison_plot
    from vitlab.evaluation.comparison import compare
    from vitlab.evaluation.comparison_latex import to_latex
    from vitlab.evaluation.comparison_text import to_markdown
    from vitlab.evaluation.evaluations import read_evaluations
    from vitlab.evaluation.registry import read_references
    from vitlab.visualization.plots import save, without_ending

    references = read_references() if args.references else None
    evaluations = read_evaluations(args.results)
    comparison = compare(evaluations, args.baseline, references, args.labels, args.metrics)
    text = to_markdown(comparison)
    print(text)
    if args.out is not None:
        stem = without_ending(args.out)
        csv = comparison.to_csv(index=False, lineterminator="\n")  # all rows at full precision
        for ending, content in (("md", text), ("csv", csv), ("tex", to_latex(comparison))):
            write_bytes(stem.with_name(f"{stem.name}.{ending}"), content.encode())
        save(comparison_plot.draw(comparison), args.out)
