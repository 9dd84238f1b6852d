"""The end of a run: its results as a table and as a file, and where everything is."""

from collections.abc import Sequence
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from vitlab.recording import write_json
from vitlab.training import run
from vitlab.training.probing import Measurement, Probing
from vitlab.training.scoring import BEST, TOP1


@rank_zero_only
def conclude(trainer: Trainer, probing: Probing, folder: Path) -> None:
    """Write the results, print them as a table, and say where everything is."""
    rows = conclusion(probing.measurements)
    write_json(folder / run.RESULTS, rows)
    tags = list(dict.fromkeys(tag for row in rows for tag in row if "/" in tag))
    # of scores, only a classifier's have a loss
    classifiers = {tag.partition("/")[0] for tag in tags if tag.endswith("/loss")}
    ours = [tag for tag in tags if tag.partition("/")[0] in classifiers]
    console = Console()
    console.print(tabulate("frozen features, %", rows, [tag for tag in tags if tag not in ours]))
    if ours:
        scored = [row for row in rows if ours[0] in row]
        console.print(tabulate("classifier, %; its loss in nats", scored, ours))
    console.print(
        f"checkpoints  {folder / run.LAST}"
        + "".join(_if_there(folder / name) for name in ("best.ckpt", BEST))
    )
    console.print(f"results      {folder / run.RESULTS}" + _if_there(folder / "pictures"))
    console.print(f"curves       tensorboard --logdir {folder}")


def tabulate(title: str, rows: Sequence[dict[str, object]], tags: Sequence[str]) -> Table:
    """Return a table with a row for each encoder and a column for each score."""
    table = Table(title=title, title_justify="left")
    for column in ("encoder", *tags):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for row in rows:
        table.add_row(
            str(row["encoder"]), *(f"{row[tag]:.1f}" if tag in row else "-" for tag in tags)
        )
    return table


def conclusion(measurements: Sequence[Measurement]) -> list[dict[str, object]]:
    """Return the rows of the closing table: baselines, the last epoch, and the best if another."""
    baselines = [m for m in measurements if m.encoder != "trained"]
    trained = [m for m in measurements if m.encoder == "trained"]
    rows = [{"encoder": m.encoder, **m.scores} for m in baselines]
    for m in trained[-1:]:
        rows.append({"encoder": f"trained, epoch {m.epoch}", **m.scores})
    best = max(trained, key=lambda m: m.scores.get("miou/mean", -1.0), default=None)
    if best is not None and best is not trained[-1] and "miou/mean" in best.scores:
        rows.append({"encoder": f"best mIoU, epoch {best.epoch}", **best.scores})
    first = max(trained, key=lambda m: m.scores.get(TOP1, -1.0), default=None)
    if first is not None and first not in (trained[-1], best) and TOP1 in first.scores:
        rows.append({"encoder": f"best top-1, epoch {first.epoch}", **first.scores})
    return rows


def _if_there(path: Path) -> str:
    return f", {path}" if path.exists() else ""
