"""`vitlab compare`: results as a table and a plot, paired where they can be, apart where not."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.evaluation import plot, tables
from vitlab.evaluation.blocks import blocks
from vitlab.evaluation.references import read_references
from vitlab.evaluation.result import RESULT
from vitlab.evaluation.rows import Run, read


def compare(
    results: list[Path], out: Path | None = None, baseline: str = "", references: bool = False
) -> None:
    """Show results side by side: a table, and with --out Markdown, CSV, LaTeX and a plot.

    Results of one protocol, with the same settings and data, are a table; others are apart, with
    what differs. Folders named seed... with one parent hold seeds of one row, as `vitlab fit`
    lays them out. Differences are paired by seed and test image.

    Args:
        results: folders of evaluations, their result.json, or folders above them.
        out: name of the files to write, without ending: .md, .csv, .tex, .png and .svg.
        baseline: row that others are compared with, by its label; in each table the first.
        references: whether to show published numbers as well, apart from ours.
    """
    made = blocks(find(results), baseline, read_references() if references else [])
    tables.show(made)
    if out is not None:
        texts = {"md": tables.markdown, "csv": tables.comma_separated, "tex": tables.latex}
        out.parent.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            out.with_name(f"{out.name}.{ending}").write_text(text(made), "utf-8")
        plot.save(made, out)


def find(paths: Sequence[Path]) -> list[Run]:
    """Read results, each once, in the order they are named.

    Raises:
        ValueError: there is none below a path, or one cannot be read.
    """
    places: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir() and not (path / RESULT).exists():
            found = sorted(file.parent for file in path.rglob(RESULT))
        else:
            found = [path.parent if path.name == RESULT and path.is_file() else path]
        if not found:
            raise ValueError(
                f"there is no {RESULT} in {path} or below it; give folders that `vitlab evaluate` "
                "has written"
            )
        for place in found:
            places.setdefault(place.resolve(), place)
    if not places:
        raise ValueError("no results are named; give folders that `vitlab evaluate` has written")
    return [read(place) for place in places.values()]
