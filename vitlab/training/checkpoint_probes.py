"""`vitlab measure`: the probes of a run on every checkpoint that it left."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vitlab.atomic_io import environment, write_json
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.config_safety import ClassParser, check_config, read_yaml, restrict_imports
from vitlab.data import VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.degradation import DENSE, alarms, peak, score_curve
from vitlab.run.module import Pretraining
from vitlab.training.checkpoint_series import CheckpointSeries, SavedCheckpoint
from vitlab.training.summary import summary_rows, tables

ROWS, SETTINGS = "measurements.json", "measure.json"
# arguments of `OnlineProbes` that do not affect any number
NO_EFFECT = ("every_n_epochs", "batch_size", "num_workers", "pictures", "baselines")


@dataclass(frozen=True)
class ProbeChanges:
    """Differences from the settings of the run.

    Attributes:
        data: another dataset of labeled images; None for that of the run.
        dense: roots of segmentation sets by name; none for those of the run.
        probing: other arguments of `OnlineProbes`.
        precision: of forward passes, as `trainer.precision`; "" for that of the run.
        family, which: of the weights, see `vitlab import`; "" for the encoder a run evaluates.
    """

    data: VisionDataModule | None
    dense: Mapping[str, Path]
    probing: Mapping[str, int]
    precision: str = ""
    family: str = "auto"
    which: str = ""

    @property
    def none(self) -> bool:
        """Whether all is as in the run."""
        return self == ProbeChanges(None, {}, {})


class SeriesProbes:
    """The probes of a series of checkpoints, with the settings of its run but for some changes.

    Args:
        series: the checkpoints.
        folder: for the measurements; those that are there are kept.
        changes: from the settings of the run.

    Raises:
        InputError: nothing to measure, data that are not where they were, or a folder that holds
            other measurements.
    """

    def __init__(self, series: CheckpointSeries, folder: Path, changes: ProbeChanges):
        self.series, self.folder, self.changes = series, folder, changes
        config: dict[str, Any] = {}
        if series.config is not None:
            config = read_yaml(series.config)  # type: ignore[assignment]
            check_config(config, series.config)
        probing = {**config.get("probing", {}), **changes.probing}
        probing["dense"] = self._dense(probing.get("dense") or {})
        data = self._data(config.get("data"))
        if data is None and not probing["dense"]:
            raise InputError(
                f"nothing to measure {series.name} on: there is no config.yaml beside its "
                "checkpoints; give --dense voc2012=DIR, for instance, and --data.root DIR for k-NN "
                "and linear probes",
                field="--dense",
            )
        precision = (config.get("trainer") or {}).get("precision") or 32
        self.settings = {
            "data": data,
            "probing": {name: each for name, each in probing.items() if name not in NO_EFFECT},
            "precision": changes.precision or str(precision),
            "family": changes.family,
            "which": changes.which,
        }
        restrict_imports()
        parser = ClassParser(exit_on_error=False)
        parser.add_class_arguments(OnlineProbes, "probing")
        parser.add_subclass_arguments(VisionDataModule, "data", required=False)
        wanted = {"probing": probing, **({"data": data} if data else {})}
        try:
            built = parser.instantiate_classes(parser.parse_object(deepcopy(wanted)))
        except ArgumentError as error:
            raise InputError(f"{series.config}: {error}", field="config.yaml") from None
        self.probing: OnlineProbes = built.probing
        self.data: VisionDataModule | None = built.get("data")
        self._check_folder()
        self.probing.check(self._encoder(series.checkpoints[-1])[0], self.data)

    def _data(self, source: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return class and arguments of the labeled images."""
        other = self.changes.data
        if other is None:
            return source and _present(source, "the run trained on", "--data.root DIR")
        name = type(other).__name__
        if source is not None and source["class_path"].rpartition(".")[2] == name:
            return _moved(source, other.root)
        return {"class_path": f"vitlab.data.{name}", "init_args": {"root": str(other.root)}}

    def _dense(self, sources: Mapping[str, Any]) -> dict[str, Any]:
        """Return class and arguments of each segmentation set."""
        if not self.changes.dense:
            return {
                name: _present(source, f"the run probed {name} on", f"--dense {name}=DIR")
                for name, source in sources.items()
            }
        found = {}
        for name, root in self.changes.dense.items():
            if name in sources:
                found[name] = _moved(sources[name], root)
            else:
                class_path = f"vitlab.data.{type(recognize(root)).__name__}"
                found[name] = {"class_path": class_path, "init_args": {"root": str(root)}}
        return found

    def _check_folder(self) -> None:
        """Refuse to continue in a folder that holds something else."""
        folder, plain = self.folder, json.loads(json.dumps(self.settings))
        reason = ""
        if folder.exists() and not folder.is_dir():
            reason = "is a file; name a folder"
        elif folder.exists() and any(folder.iterdir()):
            if not (folder / SETTINGS).is_file():
                reason = "holds other files; name a new folder"
            else:
                known = json.loads((folder / SETTINGS).read_text())["settings"]
                other = [key for key in plain if known.get(key) != plain[key]]
                if other:
                    reason = f"holds measurements with other settings ({', '.join(other)}), which "
                    reason += "make no curve with these; choose another folder"
        if reason:
            raise InputError(f"--out {folder} {reason}", field="--out")

    def add_rows(self, table: Table) -> None:
        """Add what is going to be measured to the table of the plan."""
        series, probing = self.series, self.probing
        table.add_row("run", str(series.name))
        table.add_row("epochs", ", ".join(str(each.epoch) for each in series.checkpoints))
        for path, why in series.left_out.items():
            table.add_row("  left out", f"{path.name}: {why}")
        labels = self.data is not None and self.data.samples(self.data.train_split).labels
        image = f"k-NN and linear at {probing.size} px; " if labels is not None else ""
        sets = ", ".join(probing.dense) or "no set"
        table.add_row("probes", f"{image}mIoU at {probing.dense_size} px on {sets}")
        table.add_row("result", str(self.folder))

    def measure(self, device: str, console: Console) -> list[dict[str, Any]]:
        """Measure every checkpoint that is not measured yet; each is written at once.

        Args:
            device: "auto", "cpu" or "cuda".
            console: for progress.

        Returns:
            The measurements, by epoch, those of earlier calls included.
        """
        precision: Any = self.settings["precision"]
        fabric = Fabric(accelerator=device, devices=1, precision=precision)
        probing, series = self.probing, self.series
        inference = InferenceConfig(
            fabric.device, probing.batch_size, probing.num_workers, fabric.autocast
        )
        write_json(
            self.folder / SETTINGS, {"settings": self.settings, "environment": environment()}
        )
        known = {row["epoch"]: row for row in _rows(self.folder) if row["encoder"] == "trained"}
        baselines = []
        if self.changes.none and series.config is not None:  # measured by the run itself
            rows = _rows(series.config.parent)
            baselines = [row for row in rows if row["encoder"] != "trained"]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task(str(series.name), total=len(series.checkpoints))
            for checkpoint in series.checkpoints:
                progress.update(task, description=f"{series.name}, epoch {checkpoint.epoch}")
                encoder, weights = self._encoder(checkpoint)
                if known.get(checkpoint.epoch, {}).get("weights") != weights:
                    scores, features = probing.probe(
                        encoder.to(fabric.device), self.data, inference
                    )
                    known[checkpoint.epoch] = {
                        "encoder": "trained",
                        "epoch": checkpoint.epoch,
                        "step": checkpoint.step,
                        "scores": scores,
                        "features": features,
                        "warning": "",
                        "weights": weights,
                    }
                    trained = [known[epoch] for epoch in sorted(known)]
                    write_json(self.folder / ROWS, [*baselines, *trained])
                progress.advance(task)
        return [*baselines, *(known[epoch] for epoch in sorted(known))]

    def _encoder(self, checkpoint: SavedCheckpoint) -> tuple[Encoder, str]:
        """Return the encoder that the run evaluates, or the one asked for, with its hash."""
        family, which = self.changes.family, self.changes.which
        if checkpoint.ours and not which:
            model = Pretraining.load_from_checkpoint(
                checkpoint.path, map_location="cpu", weights_only=True
            )
            encoder = model.objective.encoder
            return encoder, fingerprint(encoder)
        frozen = load_frozen_encoder(checkpoint.path, family=family, which=which)
        return frozen.encoder, frozen.info.hash

    def show(self, measurements: Sequence[dict[str, Any]], console: Console) -> None:
        """Print the first and last measurement, and what was lost between the best and the last."""
        for table in tables(summary_rows(measurements), console.width):
            console.print(table)
        top = peak(measurements, DENSE)
        if top is not None and len(score_curve(measurements, DENSE)) > 1:
            console.print(
                f"mean mIoU    best {top.best:.2f} at epoch {top.epoch}, last {top.last:.2f}: "
                f"{top.lost:.2f} points lost by the end"
            )
        for alarm in alarms(measurements)[-1:]:
            console.print(f"warning      {alarm}")
        console.print(f"results      {self.folder / ROWS}", highlight=False)
        console.print(f"curves       vitlab curves {self.folder}", highlight=False)


def _present(source: dict[str, Any], what: str, option: str) -> dict[str, Any]:
    """Return a dataset of the run, which must be where it was."""
    root = source["init_args"]["root"]
    if not Path(root).exists():
        raise InputError(
            f"{what} {root}, which does not exist; give its place now with {option}",
            field=option.split()[0],
        )
    return source


def _moved(source: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return a dataset of the run at another place."""
    if not root.exists():
        raise InputError(f"there is no {root}; give the folder of the dataset", field="--data")
    return {**source, "init_args": {**source["init_args"], "root": str(root)}}


def _rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / ROWS
    return json.loads(file.read_text()) if file.is_file() else []
