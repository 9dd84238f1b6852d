"""The end of a run: its results as a table and as a file, and where everything is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from vitlab.atomic_io import write_json
from vitlab.callbacks.validation import BEST, TOP1
from vitlab.run import run_dir


@rank_zero_only
def write_summary(measurements: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the results, print them as a table, and say where everything is."""
    rows = summary_rows(measurements)
    write_json(folder / run_dir.RESULTS, rows)
    console = Console()
    for table in tables(rows, console.width):
        console.print(table)
    last = next((m["warning"] for m in reversed(measurements) if m["warning"]), "")
    if last:
        console.print(f"warning      {last}")
    console.print(
        f"checkpoints  {folder / run_dir.LAST}"
        + "".join(_if_there(folder / name) for name in ("best.ckpt", BEST))
    )
    console.print(f"results      {folder / run_dir.RESULTS}" + _if_there(folder / "pictures"))
    console.print(f"curves       tensorboard --logdir {folder}")


def tables(rows: Sequence[dict[str, object]], width: int) -> list[Table]:
    """Return a table of what was measured on frozen features, and one of classifiers, if any.

    Args:
        rows: see `conclusion`.
        width: letters of a line, in which heads are to be readable.
    """
    tags = list(dict.fromkeys(tag for row in rows for tag in row if "/" in tag))
    # of scores, only a classifier's have a loss
    classifiers = [tag.partition("/")[0] for tag in tags if tag.endswith("/loss")]
    frozen = [tag for tag in tags if tag.partition("/")[0] not in classifiers]
    found = [tabulate("frozen features, %", rows, frozen, width)] if frozen else []
    if classifiers:
        of_one = [
            {
                "encoder": f"{row['encoder']} ({name})" if len(classifiers) > 1 else row["encoder"],
                **{
                    tag.partition("/")[2]: value
                    for tag, value in row.items()
                    if tag.partition("/")[0] == name and "/" in tag
                },
            }
            for row in rows
            for name in classifiers
        ]
        scores = list(dict.fromkeys(score for row in of_one for score in row if score != "encoder"))
        found.append(tabulate("classifier, %; its loss in nats", of_one, scores, width))
    return found


def tabulate(
    title: str, rows: Sequence[dict[str, object]], tags: Sequence[str], width: int
) -> Table:
    """Return a table with a row for each encoder that has a score, and a column for each score.

    Heads are broken behind the slash where the table would not fit into the width otherwise.
    """
    shown = [row for row in rows if any(tag in row for tag in tags)]
    labels = [str(row["encoder"]) for row in shown]
    # each column has two spaces and a line beside what it holds
    needed = 4 + max(map(len, labels), default=0) + sum(len(tag) + 3 for tag in tags)
    table = Table(title=title, title_justify="left")
    table.add_column("encoder")
    for tag in tags:
        head = tag if needed <= width else tag.replace("/", "/\n")
        table.add_column(head, justify="right", overflow="fold")
    for label, row in zip(labels, shown, strict=True):
        table.add_row(label, *(f"{row[tag]:.1f}" if tag in row else "-" for tag in tags))
    return table


def summary_rows(measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return the rows of the closing table: baselines, the last epoch, and the best if another."""
    baselines = [m for m in measurements if m["encoder"] != "trained"]
    trained = [m for m in measurements if m["encoder"] == "trained"]
    rows = [{"encoder": m["encoder"], **m["scores"]} for m in baselines]
    for m in trained[-1:]:
        rows.append({"encoder": f"trained, epoch {m['epoch']}", **m["scores"]})
    best = max(trained, key=lambda m: m["scores"].get("miou/mean", -1.0), default=None)
    if best is not None and best is not trained[-1] and "miou/mean" in best["scores"]:
        rows.append({"encoder": f"best mIoU, epoch {best['epoch']}", **best["scores"]})
    first = max(trained, key=lambda m: m["scores"].get(TOP1, -1.0), default=None)
    if first is not None and first not in (trained[-1], best) and TOP1 in first["scores"]:
        rows.append({"encoder": f"best top-1, epoch {first['epoch']}", **first["scores"]})
    return rows


def _if_there(path: Path) -> str:
    return f", {path}" if path.exists() else ""
