"""`vitlab measure`: the probes of a run, after the fact, on every checkpoint that it left."""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vitlab.atomic_io import environment, write_json
from vitlab.callbacks.online_probes import Measurement, OnlineProbes
from vitlab.config_safety import check_config, read_yaml, restrict_imports
from vitlab.data import VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders import Encoder
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.degradation import DENSE, alarms, course, peak
from vitlab.training.checkpoint_series import CheckpointSeries, SavedCheckpoint
from vitlab.training.module import Pretraining
from vitlab.training.summary import summary_rows, tables

ROWS, SETTINGS = "measurements.json", "measure.json"
# of the arguments of `Probing`, those that decide no number
NO_NUMBER = ("every_n_epochs", "batch_size", "num_workers", "pictures", "baselines")


@dataclass(frozen=True)
class Changes:
    """What is not as the run had it.

    Attributes:
        data: root of the labeled images; "" for that of the run.
        dense: roots of segmentation sets by name; none for those of the run.
        probing: other arguments of `Probing`.
        precision: of forward passes, as `trainer.precision`; "" for that of the run.
        family, which: of the weights, see `vitlab import`; "" for the encoder a run evaluates.
    """

    data: str = ""
    dense: Mapping[str, str] = field(default_factory=dict)
    probing: Mapping[str, int] = field(default_factory=dict)
    precision: str = ""
    family: str = "auto"
    which: str = ""


@dataclass(frozen=True)
class Job:
    """A trail, how it is measured, and where its measurements go.

    Attributes:
        trail: the checkpoints.
        folder: to write, or to go on in.
        probing: the probes.
        data: of the image-level probes; None for none.
        settings: all that decides a number, as plain values.
        changes: what was asked for.
    """

    trail: CheckpointSeries
    folder: Path
    probing: OnlineProbes
    data: VisionDataModule | None
    settings: dict[str, Any]
    changes: Changes


def job(trail: CheckpointSeries, folder: Path, changes: Changes) -> Job:
    """Settle how a trail is measured: as its run was, but for the changes.

    Raises:
        ValueError: nothing is to be measured, data are not where they were, or the folder holds
            measurements of another kind.
    """
    config: dict[str, Any] = {}
    if trail.config is not None:
        config = read_yaml(trail.config)  # type: ignore[assignment]
        check_config(config, trail.config)
    probes = {**config.get("probing", {}), **changes.probing}
    probes["dense"] = _dense(probes.get("dense") or {}, changes)
    data = _data(config, changes)
    if data is None and not probes["dense"]:
        raise ValueError(
            f"nothing to measure {trail.name} on: there is no config.yaml beside its checkpoints; "
            "give --dense voc2012=DIR, for instance, and --data DIR for k-NN and linear probes"
        )
    settings = {
        "data": data,
        "probing": {name: each for name, each in probes.items() if name not in NO_NUMBER},
        "precision": changes.precision or str((config.get("trainer") or {}).get("precision") or 32),
        "family": changes.family,
        "which": changes.which,
    }
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OnlineProbes, "probing")
    parser.add_subclass_arguments(VisionDataModule, "data", required=False)
    wanted = {"probing": probes, **({"data": data} if data else {})}
    try:
        built = parser.instantiate_classes(parser.parse_object(deepcopy(wanted)))
    except ArgumentError as error:
        raise ValueError(f"{trail.config}: {error}") from None
    _refuse_other(folder, settings)
    found = Job(trail, folder, built.probing, built.get("data"), settings, changes)
    found.probing.check(_encoder(found, trail.checkpoints[-1])[0], found.data)
    return found


def _data(config: Mapping[str, Any], changes: Changes) -> dict[str, Any] | None:
    """Return the class and arguments of the labeled images."""
    given = config.get("data")
    if not changes.data:
        return _present(given, "the run trained on", "--data DIR") if given else None
    return _moved(given, changes.data)


def _dense(given: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Return the class and arguments of each segmentation set."""
    if not changes.dense:
        return {
            name: _present(source, f"the run probed {name} on", f"--dense {name}=DIR")
            for name, source in given.items()
        }
    return {name: _moved(given.get(name), root) for name, root in changes.dense.items()}


def _present(source: dict[str, Any], what: str, option: str) -> dict[str, Any]:
    """Return a set of the run, which must be where it was."""
    root = source["init_args"]["root"]
    if not Path(root).exists():
        raise ValueError(f"{what} {root}, which is not there; say where it is now with {option}")
    return source


def _moved(source: dict[str, Any] | None, root: str) -> dict[str, Any]:
    """Return a set of the run at another place, or one of a kind that the folder shows."""
    if source is None:
        kind = type(recognize(Path(root))).__name__
        return {"class_path": f"vitlab.data.{kind}", "init_args": {"root": root}}
    if not Path(root).exists():
        raise ValueError(f"there is no {root}; give the folder of the dataset")
    return {**source, "init_args": {**source["init_args"], "root": root}}


def _refuse_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that holds something else.

    Raises:
        ValueError: what differs, and what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / SETTINGS).is_file():
        raise ValueError(f"--out {folder} holds other files; name a new folder")
    known = json.loads((folder / SETTINGS).read_text())["settings"]
    plain = json.loads(json.dumps(settings))
    other = [key for key in plain if known.get(key) != plain[key]]
    if other:
        raise ValueError(
            f"--out {folder} holds measurements with other settings ({', '.join(other)}), which "
            "make no curve with these; choose another folder"
        )


def show_plan(jobs: Sequence[Job], console: Console) -> None:
    """Print what is going to be measured."""
    table = Table(title="measure", show_header=False, title_justify="left")
    for each in jobs:
        trail, probing = each.trail, each.probing
        epochs = ", ".join(str(checkpoint.epoch) for checkpoint in trail.checkpoints)
        table.add_row("run", str(trail.name))
        table.add_row("epochs", epochs)
        for path, why in trail.left_out.items():
            table.add_row("  left out", f"{path.name}: {why}")
        labeled = (
            each.data is not None and each.data.samples(each.data.train_split).labels is not None
        )
        image = f"k-NN and linear at {probing.size} px; " if labeled else ""
        sets = ", ".join(probing.dense) or "no set"
        table.add_row("probes", f"{image}mIoU at {probing.dense_size} px on {sets}")
        table.add_row("result", str(each.folder))
    console.print(table)


def measure(each: Job, device: str, console: Console) -> list[Measurement]:
    """Measure every checkpoint that is not measured yet; each is written when it is done.

    Args:
        each: what to measure.
        device: "auto", "cpu" or "cuda".
        console: for progress and results.

    Returns:
        The measurements, by epoch, also of an earlier call.
    """
    fabric = Fabric(accelerator=device, devices=1, precision=each.settings["precision"])
    probing = each.probing
    loading = InferenceConfig(
        fabric.device, probing.batch_size, probing.num_workers, fabric.autocast
    )
    write_json(each.folder / SETTINGS, {"settings": each.settings, "environment": environment()})
    known = _known(each.folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(str(each.trail.name), total=len(each.trail.checkpoints))
        for checkpoint in each.trail.checkpoints:
            progress.update(task, description=f"{each.trail.name}, epoch {checkpoint.epoch}")
            encoder, mark = _encoder(each, checkpoint)
            if known.get(checkpoint.epoch, {}).get("weights") != mark:
                found = probing.probe(encoder.to(fabric.device), each.data, loading)
                row = Measurement(
                    "trained", checkpoint.epoch, checkpoint.step, found.scores, found.features
                )
                known[checkpoint.epoch] = {**asdict(row), "weights": mark}
                write_json(each.folder / ROWS, [*_baselines(each), *_in_order(known)])
            progress.advance(task)
    return [_measurement(row) for row in (*_baselines(each), *_in_order(known))]


def _encoder(each: Job, checkpoint: SavedCheckpoint) -> tuple[Encoder, str]:
    """Return the encoder that the run evaluates, or the one that was asked for, and its hash."""
    asked = each.changes
    if checkpoint.ours and not asked.which:
        model = Pretraining.load_from_checkpoint(
            checkpoint.path, map_location="cpu", weights_only=True
        )
        encoder = model.objective.encoder
        return encoder, fingerprint(encoder)
    frozen = load_frozen_encoder(checkpoint.path, asked.family, asked.which)
    return frozen.encoder, frozen.info.hash


def _known(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what was measured before, by epoch."""
    file = folder / ROWS
    rows = json.loads(file.read_text()) if file.is_file() else []
    return {row["epoch"]: row for row in rows if row["encoder"] == "trained"}


def _baselines(each: Job) -> list[dict[str, Any]]:
    """Return what the run itself measured before training, where nothing is changed."""
    config = each.trail.config
    file = config.with_name(ROWS) if config is not None else None
    if each.changes != Changes() or file is None or not file.is_file():
        return []
    return [row for row in json.loads(file.read_text()) if row["encoder"] != "trained"]


def _in_order(known: Mapping[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for epoch in sorted(known):
        yield known[epoch]


def _measurement(row: Mapping[str, Any]) -> Measurement:
    return Measurement(**{key: value for key, value in row.items() if key != "weights"})


def show(each: Job, found: Sequence[Measurement], console: Console) -> None:
    """Print the first and last measurement, and what was lost between the best and the last."""
    for table in tables(summary_rows(found), console.width):
        console.print(table)
    rows = [asdict(measurement) for measurement in found]
    top = peak(rows, DENSE)
    if top is not None and len(course(rows, DENSE)) > 1:
        console.print(
            f"mean mIoU    best {top.best:.2f} at epoch {top.epoch}, last {top.last:.2f}: "
            f"{top.lost:.2f} points lost by the end"
        )
    for alarm in alarms(rows)[-1:]:
        console.print(f"warning      {alarm}")
    console.print(f"results      {each.folder / ROWS}", highlight=False)
    console.print(f"curves       vitlab curves {each.folder}", highlight=False)
