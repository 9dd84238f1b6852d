"""`vitlab runs`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import pandas as pd

from vitlab.cluster.runs import RunInfo, RunState, find_runs
from vitlab.cluster.slurm import queue
from vitlab.commands.parser import POSITIONAL, parse
from vitlab.errors import InputError
from vitlab.terminal import complain, printable, say

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
        complain(f"{error}; states are those of the files")
        jobs = {}
    runs = list(find_runs(options.root, jobs, complain))
    runs = [each for each in runs if not options.state or each.state in options.state]
    if options.json:
        print(json.dumps([asdict(each) for each in runs], indent=1, default=str))
        return
    rows = [_cells(each, options.root) for each in runs]
    table = pd.DataFrame(rows)
    if rows:
        print(table.loc[:, (table != "").any()].to_string(index=False))
    for row, each in zip(rows, runs, strict=True):
        for text in filter(None, (each.reason, each.status.warning if each.status else "")):
            say(f"{row['run']}: {text}")
    counts = Counter(each.state for each in runs)
    print(", ".join(f"{count} {state}" for state, count in counts.items()) or "no runs")


def _cells(run: RunInfo, root: Path) -> dict[str, str]:
    """Return the cells of a run by column."""
    cells = {"run": str(run.folder.relative_to(root)), "state": run.state}
    cells |= dict.fromkeys(("step", "epoch", "loss", "score", "saved", "job", "host"), "")
    if run.best:
        tag, best = run.best["tag"], run.best["value"]
        last = f" {run.measured[tag]:.1f}" if tag in run.measured else ""
        cells["score"] = f"{tag}{last} (best {best:.1f})"
    if run.checkpoint is not None:
        cells["saved"] = f"{timedelta(seconds=int(run.checkpoint))} ago"
    if status := run.status:
        cells["step"] = f"{status.step:,}/{status.steps:,}"
        cells["epoch"] = f"{status.epoch}/{status.epochs}"
        cells["loss"] = f"{status.metrics['loss']:.3f}" if "loss" in status.metrics else ""
        cells["host"] = status.host.partition(".")[0]
    restarts = f" start {status.restarts + 1}" if status and status.restarts else ""
    cells["job"] = run.job and f"{run.job}{restarts}"
    return {name: printable(each) for name, each in cells.items()}
