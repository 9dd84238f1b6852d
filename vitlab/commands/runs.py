"""`vitlab runs`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vitlab.cluster import Run, State, find, queue

COLORS = {
    State.QUEUED: "cyan",
    State.RUNNING: "green",
    State.REQUEUED: "cyan",
    State.STOPPED: "yellow",
    State.FINISHED: "blue",
    State.FAILED: "red",
    State.LOST: "red",
}
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
        type=State,
        choices=list(State),
        default=list(State),
        metavar="STATE",
        help=f"only runs in one of these states: {', '.join(State)}",
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
    console = Console()
    console.print(table(runs, given.folder))
    for found in runs:
        if found.reason:
            console.print(f"{name(found, given.folder)}: {found.reason}", markup=False)
        if found.status and found.status.warning:
            console.print(f"{name(found, given.folder)}: {found.status.warning}", markup=False)
    counts = {state: sum(found.state is state for found in runs) for state in State}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no runs")


def table(runs: Sequence[Run], root: Path) -> Table:
    """Return a table with a row for each run."""
    shown = Table(box=None, pad_edge=False)
    for column in ("run", "state", "step", "epoch", "loss", "score", "saved", "job", "host"):
        right = column in ("step", "epoch", "loss", "saved")
        shown.add_column(column, justify="right" if right else "left", overflow="fold")
    for found in runs:
        status = found.status
        loss = status.metrics.get("loss") if status else None
        again = f", start {status.restarts + 1}" if status and status.restarts else ""
        shown.add_row(
            name(found, root),
            f"[{COLORS[found.state]}]{found.state}[/]",
            f"{status.step:,}/{status.steps:,}" if status else "",
            f"{status.epoch}/{status.epochs}" if status else "",
            "" if loss is None else f"{loss:.3f}",
            score(found),
            f"{age(found.checkpoint)} ago" if found.checkpoint is not None else "",
            found.job + again,
            status.host if status else "",
        )
    return shown


def name(found: Run, root: Path) -> str:
    """Return a run's folder below the one that was asked for."""
    return str(found.folder if found.folder == root else found.folder.relative_to(root))


def score(found: Run) -> str:
    """Return the last and the best value of the score that counts."""
    if not found.best:
        return ""
    best, tag = found.best, found.best["tag"]
    last = f"{found.measured[tag]:.1f}, " if tag in found.measured else ""
    return f"{tag} {last}best {best['value']:.1f} (epoch {best['epoch']})"


def age(seconds: float) -> str:
    """Return a duration in its largest unit: 3 min, 2 d."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
