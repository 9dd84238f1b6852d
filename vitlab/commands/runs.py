"""`vitlab runs`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitlab.cluster import RunInfo, RunState, find, queue

COLORS = {
    RunState.QUEUED: "cyan",
    RunState.RUNNING: "green",
    RunState.REQUEUED: "cyan",
    RunState.STOPPED: "yellow",
    RunState.FINISHED: "blue",
    RunState.FAILED: "red",
    RunState.LOST: "red",
}
SPARED = ("host", "job", "saved", "loss")  # columns left out first where there is no room
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def run(words: Sequence[str]) -> None:
    """List runs."""
    parser = argparse.ArgumentParser(
        "vitlab runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="List the runs below a folder: queued, running, requeued, stopped (can go on), "
        "finished,\nfailed or lost (killed, or its machine failed), with how far they are and what "
        "they have\nmeasured. Only small files are read, and SLURM is asked for your jobs where it "
        "is there.",
        epilog="examples:\n"
        "  vitlab runs\n"
        "  vitlab runs runs/dino --state lost failed\n"
        "  vitlab runs --json | python -m json.tool",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument(
        "--state",
        nargs="+",
        type=RunState,
        choices=list(RunState),
        default=list(RunState),
        metavar="STATE",
        help=f"only runs in one of these states: {', '.join(RunState)}",
    )
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    given = parser.parse_args(words)
    try:
        jobs = queue()
    except ValueError as error:  # the files still say most of it
        print(f"vitlab: {error}; states are those of the files", file=sys.stderr)
        jobs = {}
    runs = [found for found in find(given.folder, jobs) if found.state in given.state]
    if given.json:
        rows = [{**asdict(found), "folder": str(found.folder)} for found in runs]
        print(json.dumps(rows, indent=1))
        return
    console = Console(markup=False, emoji=False)  # names are as they are
    console.print(table(runs, given.folder, console.width))
    for found in runs:
        for text in (found.reason, found.status.warning if found.status else ""):
            if text:
                console.print(f"{name(found, given.folder)}: {text}")
    counts = {state: sum(found.state is state for found in runs) for state in RunState}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no runs")


def table(runs: Sequence[RunInfo], root: Path, width: int) -> Table:
    """Return a table with a row for each run, of the columns that say something and have room."""
    tags = {found.best["tag"] for found in runs if found.best}
    tag = tags.pop() if len(tags) == 1 else ""
    rows = [cells(found, root, tag) for found in runs]
    lengths = {
        column: max(len(row[column]) for row in rows) for column in (rows[0] if rows else ())
    }
    lengths = {column: max(length, len(column)) for column, length in lengths.items() if length}
    cut = []
    for column in SPARED:
        if sum(lengths.values()) + 2 * len(lengths) > width and lengths.pop(column, 0):
            cut.append(column)
    caption = f"in a wider window, or with --json: {', '.join(cut)}" if cut else None
    shown = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in lengths:
        right = column in ("step", "epoch", "loss", "saved")
        whole = column != "run"  # a path may be broken, a number may not
        shown.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=whole
        )
    for found, row in zip(runs, rows, strict=True):
        styles = {"state": COLORS[found.state]}
        shown.add_row(*(Text(row[column], styles.get(column, "")) for column in lengths))
    return shown


def cells(found: RunInfo, root: Path, tag: str) -> dict[str, str]:
    """Return what a run's row says, by column; the score's has the tag that all runs share."""
    status = found.status
    loss = status.metrics.get("loss") if status else None
    again = f" start {status.restarts + 1}" if status and status.restarts and found.job else ""
    return {
        "run": name(found, root),
        "state": found.state,
        "step": of(status.step, status.steps) if status else "",
        "epoch": of(status.epoch, status.epochs) if status else "",
        "loss": "" if loss is None else f"{loss:.3f}",
        tag or "score": score(found).removeprefix(tag).strip(),
        "saved": "" if found.checkpoint is None else age(found.checkpoint),
        "job": found.job + again,
        "host": status.host.partition(".")[0] if status else "",
    }


def of(done: int, total: int) -> str:
    """Return how far something is; the total is not known before training begins."""
    return f"{done:,}/{total:,}" if total else f"{done:,}"


def name(found: RunInfo, root: Path) -> str:
    """Return a run's folder below the one that was asked for."""
    return str(found.folder if found.folder == root else found.folder.relative_to(root))


def score(found: RunInfo) -> str:
    """Return the last and the best value of the score that counts."""
    if not found.best:
        return ""
    tag, best = found.best["tag"], f"(best {found.best['value']:.1f})"
    return f"{tag} {found.measured[tag]:.1f} {best}" if tag in found.measured else f"{tag} {best}"


def age(seconds: float) -> str:
    """Return a duration in its largest unit: 3 min, 2 d."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
