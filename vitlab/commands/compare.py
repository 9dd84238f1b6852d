"""`vitlab compare`: results of `vitlab evaluate` side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.commands.parser import POSITIONAL, parse

EXAMPLES = """\
  vitlab compare evaluations/
  vitlab compare evaluations/dino evaluations/dino_entmax --out table --references
"""


@dataclass(frozen=True)
class CompareArguments:
    """Show results side by side: a table, and with --out Markdown, CSV, LaTeX and a plot.

    Results of one protocol, with the same settings and data, are a table; others are apart, with
    what differs. Folders named seed... with one parent hold seeds of one row, as `vitlab fit`
    lays them out. Differences are paired by seed and test image.

    Args:
        results: folders of evaluations, their result.json, or folders above them.
        out: name of the files to write, without ending: .md, .csv, .tex, .png and .svg.
        baseline: row that others are compared with, by its label; in each table the first.
        references: show published numbers as well, apart from ours.
    """

    results: list[Path] = field(metadata=POSITIONAL)
    out: Path | None = None
    baseline: str = ""
    references: bool = False


def run(words: Sequence[str]) -> None:
    """Run the verb with the words behind it."""
    args = parse(CompareArguments, words, "vitlab compare", EXAMPLES)

    from vitlab.evaluation import comparison_plot
    from vitlab.evaluation.comparison import compare
    from vitlab.evaluation.comparison_text import to_latex, to_markdown
    from vitlab.evaluation.evaluations import read_evaluations
    from vitlab.evaluation.registry import read_references

    references = read_references() if args.references else None
    comparison = compare(read_evaluations(args.results), args.baseline, references)
    text = to_markdown(comparison)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        csv = comparison.to_csv(index=False, lineterminator="\n")  # all rows at full precision
        for ending, content in (("md", text), ("csv", csv), ("tex", to_latex(comparison))):
            args.out.with_name(f"{args.out.name}.{ending}").write_text(content, "utf-8")
        comparison_plot.save(comparison, args.out)
