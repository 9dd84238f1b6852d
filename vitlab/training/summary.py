"""The end of a run: its results as a table and as a file, where all is, what to do next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from vitlab.atomic_io import write_json
from vitlab.callbacks.loggers import describe_logger
from vitlab.callbacks.measurements import Measurement, distinct, finite
from vitlab.callbacks.online_probes import OnlineProbes, has_labels
from vitlab.callbacks.validation import BEST, TOP1
from vitlab.objectives.objective import find_encoders
from vitlab.run import run_dir
from vitlab.terminal import console, say
from vitlab.training.callbacks import measurements

BASELINES = {"pixels": "raw pixels", "untrained": "the untrained encoder"}


@rank_zero_only
def write_summary(trainer: Trainer, early: str = "") -> None:
    """Write the results, print them as a table, and say where everything is.

    Args:
        trainer: of the run.
        early: where the run ended before its planned end, and by what; "" for a complete one.
    """
    folder, rows = Path(trainer.default_root_dir), measurements(trainer)
    write_json(folder / run_dir.RESULTS, summary_rows(rows))
    print_scores(rows)
    for warning in [row["warning"] for row in rows if row["warning"]][-1:]:
        say(f"warning      {warning}")
    for sentence in below_baselines(rows):
        say(f"mind         {sentence}")
    if early:
        say(f"ended early  {early}")
    names = (run_dir.LAST, "best.ckpt", BEST, run_dir.RESULTS)
    say(f"files        {', '.join(str(folder / n) for n in names if (folder / n).exists())}")
    for picture in sorted(
        folder.glob(f"pictures/*_epoch_{rows[-1]['epoch'] if rows else 0:04d}.png")
    ):
        say(f"pictures     {picture}")
    logged = rows or trainer.global_step >= trainer.log_every_n_steps  # type: ignore[attr-defined]
    for logger in trainer.loggers if logged else ():
        say(f"curves       {describe_logger(logger)}")
    if command := next_evaluation(trainer):
        say(f"next         {command}")


def below_baselines(measured: Sequence[Measurement]) -> list[str]:
    """Return a sentence for each score that training has never brought above a baseline."""
    found = []
    trained = [finite(distinct(row["scores"])) for row in measured if row["encoder"] == "trained"]
    for tag in dict.fromkeys(tag for scores in trained for tag in scores):
        best = max(scores[tag] for scores in trained if tag in scores)
        above = [
            f"{BASELINES[row['encoder']]} with {row['scores'][tag]:.1f}"
            for row in measured
            if row["encoder"] in BASELINES and finite(row["scores"]).get(tag, best) > best
        ]
        if above:
            found.append(f"{tag} stays below {' and '.join(above)}: at best {best:.1f}")
    if found:
        found.append(
            "where training does not pay, try more epochs (trainer.max_epochs), another "
            "model.optimizer.lr, or larger crops and images (data.transform, probing.size)"
        )
    return found


def next_evaluation(trainer: Trainer) -> str:
    """Return a command that evaluates the run; "" where its data are of no class of vitlab."""
    folder = Path(trainer.default_root_dir)
    objective: Any = trainer.lightning_module.objective
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    probing = [each for each in callbacks if isinstance(each, OnlineProbes)]
    sets = [source for each in probing for source in each.dense.values()]
    data = sets[0] if sets else trainer.datamodule  # type: ignore[attr-defined]
    encoders = find_encoders(objective)
    modules = {f"objective.{path}.": module for path, module in objective.named_modules()}
    which = [n for n, each in encoders.items() if modules[each["prefix"]] is objective.encoder]
    foreign = not type(data).__module__.startswith("vitlab.")
    if foreign or not (sets or has_labels(data)) or (len(encoders) > 1 and not which):
        return ""
    best = folder / "best.ckpt"
    words = ["vitlab", "evaluate", "--weights", best if best.exists() else folder / run_dir.LAST]
    words += ["--which", which[0]] if which and len(encoders) > 1 else []
    words += ["--protocol", "vitlab-fast" if sets else "knn"]
    words += ["--data", type(data).__name__, "--data.root", data.root]
    return shlex.join(map(str, words))


def print_scores(measurements: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of scores of frozen features, and one of each classifier, if any."""
    rows = summary_rows(measurements)
    tags = distinct(dict.fromkeys(tag for row in rows for tag in row if tag != "encoder"))
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
    """Return the rows of the closing table: baselines, the best if not the last, the last epoch."""
    trained = [each for each in measurements if each["encoder"] == "trained"]
    rows = {each["encoder"]: each for each in measurements if each["encoder"] != "trained"}
    shown = trained[-1:]
    rows |= {f"trained, epoch {each['epoch']}": each for each in shown}
    for name, tag in (("best mIoU", "miou/mean"), ("best top-1", TOP1)) if trained else ():
        best = max(trained, key=lambda each: finite(each["scores"]).get(tag, -1.0))
        if best not in shown and tag in finite(best["scores"]):
            rows[f"{name}, epoch {best['epoch']}"] = best
        shown.append(best)
    ordered = sorted(rows.items(), key=lambda item: item[1]["epoch"])
    return [{"encoder": name, **finite(each["scores"])} for name, each in ordered]
