"""`vitlab runs`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitlab.cluster.listing import RunInfo, RunState, find_runs
from vitlab.cluster.slurm import queue
from vitlab.commands.parser import POSITIONAL, parse
from vitlab.errors import InputError

COLORS: dict[RunState, str] = {
    "queued": "cyan",
    "running": "green",
    "requeued": "cyan",
    "stopped": "yellow",
    "finished": "blue",
    "failed": "red",
    "lost": "red",
}
OPTIONAL = ("host", "job", "saved", "loss")  # columns left out first in narrow windows
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
EXAMPLES = """\
examples:
  vitlab runs
  vitlab runs runs/dino --state lost failed
  vitlab runs --json | python -m json.tool
"""


@dataclass(frozen=True)
class RunsOptions:
    """List the runs below a folder with their state, progress and scores.

    A run is queued, running, requeued, stopped (can continue), finished, failed or lost (killed, or
    its machine failed). Only small files are read; where SLURM is installed, its queue as well.

    Args:
        root: folder; by default runs
        state: only runs in these states; by default all
        json: everything that is known, as JSON
    """

    root: Path = field(default=Path("runs"), metadata=POSITIONAL)
    state: list[RunState] = field(default_factory=list)
    json: bool = False


def run(words: Sequence[str]) -> None:
    """List runs."""
    options = parse(RunsOptions, words, "vitlab runs", EXAMPLES)
    try:
        jobs = queue()
    except InputError as error:  # the files still have most of it
        print(f"vitlab: {error}; states are those of the files", file=sys.stderr)
        jobs = {}
    wanted = options.state or list(COLORS)
    runs = [found for found in find_runs(options.root, jobs) if found.state in wanted]
    if options.json:
        print(json.dumps([asdict(each) for each in runs], indent=1, default=str))
        return
    console = Console(markup=False, emoji=False)  # names are not markup
    console.print(table(runs, options.root, console.width))
    for each in runs:
        for text in (each.reason, each.status.warning if each.status else ""):
            if text:
                console.print(f"{_name(each, options.root)}: {text}")
    counts = {state: sum(each.state == state for each in runs) for state in COLORS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no runs")


def table(runs: Sequence[RunInfo], root: Path, width: int) -> Table:
    """Return a table with a row for each run, of the columns that have content and room."""
    tags = {each.best["tag"] for each in runs if each.best}
    tag = tags.pop() if len(tags) == 1 else ""
    rows = [_cells(each, root, tag) for each in runs]
    widths = {column: max(len(row[column]) for row in rows) for column in (rows[0] if rows else ())}
    widths = {column: max(length, len(column)) for column, length in widths.items() if length}
    hidden = []
    for column in OPTIONAL:
        if sum(widths.values()) + 2 * len(widths) > width and widths.pop(column, 0):
            hidden.append(column)
    caption = f"in a wider window, or with --json: {', '.join(hidden)}" if hidden else None
    shown = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in widths:
        right = column in ("step", "epoch", "loss", "saved")
        shown.add_column(
            column,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=column != "run",  # a path may be broken, a number may not
        )
    for each, row in zip(runs, rows, strict=True):
        styles = {"state": COLORS[each.state]}
        shown.add_row(*(Text(row[column], styles.get(column, "")) for column in widths))
    return shown


def _cells(run: RunInfo, root: Path, tag: str) -> dict[str, str]:
    """Return the cells of a run by column; the score's column has the tag that all runs share."""
    status, best = run.status, ""
    if run.best:
        best = f"(best {run.best['value']:.1f})"
        if run.best["tag"] in run.measured:
            best = f"{run.measured[run.best['tag']]:.1f} {best}"
        best = best if tag else f"{run.best['tag']} {best}"
    loss = status.metrics.get("loss") if status else None
    again = f" start {status.restarts + 1}" if status and status.restarts and run.job else ""
    return {
        "run": _name(run, root),
        "state": run.state,
        "step": _progress(status.step, status.steps) if status else "",
        "epoch": _progress(status.epoch, status.epochs) if status else "",
        "loss": "" if loss is None else f"{loss:.3f}",
        tag or "score": best,
        "saved": "" if run.checkpoint is None else age(run.checkpoint),
        "job": run.job + again,
        "host": status.host.partition(".")[0] if status else "",
    }


def _progress(done: int, total: int) -> str:
    return f"{done:,}/{total:,}" if total else f"{done:,}"  # unknown before training begins


def _name(run: RunInfo, root: Path) -> str:
    return str(run.folder if run.folder == root else run.folder.relative_to(root))


def age(seconds: float) -> str:
    """Return a duration in its largest unit: 3 min, 2 d."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
