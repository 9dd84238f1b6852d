"""The end of a run: its results as a table and as a file, and where everything is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from vitlab.atomic_io import write_json
from vitlab.callbacks.loggers import describe_logger
from vitlab.callbacks.measurements import finite
from vitlab.callbacks.validation import BEST, TOP1
from vitlab.run import run_dir
from vitlab.terminal import console, say


@rank_zero_only
def write_summary(
    measurements: Sequence[Mapping[str, Any]],
    folder: Path,
    loggers: Sequence[Logger],
    early: str = "",
) -> None:
    """Write the results, print them as a table, and say where everything is.

    Args:
        measurements: of the run.
        folder: of the run.
        loggers: that the run had.
        early: where the run ended before its planned end, and by what; "" for a complete one.
    """
    write_json(folder / run_dir.RESULTS, summary_rows(measurements))
    print_scores(measurements)
    for warning in [row["warning"] for row in measurements if row["warning"]][-1:]:
        say(f"warning      {warning}")
    if early:
        say(f"ended early  {early}")
    names = (run_dir.LAST, "best.ckpt", BEST, run_dir.RESULTS, "pictures")
    say(f"files        {', '.join(str(folder / n) for n in names if (folder / n).exists())}")
    for logger in loggers:
        say(f"curves       {describe_logger(logger)}")


def print_scores(measurements: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of scores of frozen features, and one of each classifier, if any."""
    rows = summary_rows(measurements)
    tags = dict.fromkeys(tag for row in rows for tag in row if tag != "encoder")
    groups: dict[str, list[str]] = {}
    for tag in tags:
        name = tag.partition("/")[0]
        # of scores, only a classifier's have a loss
        title = f"classifier {name}, %; loss in nats" if f"{name}/loss" in tags else ""
        groups.setdefault(title or "frozen features, %", []).append(tag)
    for title, group in groups.items():
        # heads are broken behind the slash, so that many fit beside each other
        heads = ["encoder", *(tag.replace("/", "/\n") for tag in group)]
        table = Table(*heads, title=title, title_justify="left")
        for row in rows:
            if any(tag in row for tag in group):
                scores = (f"{row[tag]:.1f}" if tag in row else "-" for tag in group)
                table.add_row(str(row["encoder"]), *scores)
        console().print(table)


def summary_rows(measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return the rows of the closing table: baselines, the last epoch, and the best if another."""
    trained = [each for each in measurements if each["encoder"] == "trained"]
    rows = {each["encoder"]: each for each in measurements if each["encoder"] != "trained"}
    shown = trained[-1:]
    rows |= {f"trained, epoch {each['epoch']}": each for each in shown}
    for name, tag in (("best mIoU", "miou/mean"), ("best top-1", TOP1)) if trained else ():
        best = max(trained, key=lambda each: finite(each["scores"]).get(tag, -1.0))
        if best not in shown and tag in finite(best["scores"]):
            rows[f"{name}, epoch {best['epoch']}"] = best
        shown.append(best)
    return [{"encoder": name, **finite(each["scores"])} for name, each in rows.items()]
