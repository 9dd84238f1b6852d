"""`vitlab measure`: the probes of a run on every checkpoint that it left."""

import json
import pydoc
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from vitlab.atomic_io import environment, read_json_as, write_json
from vitlab.callbacks.measurements import ROWS, Measurement, read_measurements
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.config_safety import ClassParser, read_yaml
from vitlab.data import VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.degradation import DENSE, alarms, peak, score_curve
from vitlab.progress import track
from vitlab.run.module import Pretraining
from vitlab.terminal import say
from vitlab.training.checkpoint_series import CheckpointSeries, SavedCheckpoint
from vitlab.training.measure_options import MeasureOptions
from vitlab.training.plan import describe_probes, print_rows
from vitlab.training.summary import print_scores

SETTINGS = "measure.json"
# arguments of `OnlineProbes` that affect no number
NO_EFFECT = ("every_n_epochs", "batch_size", "num_workers", "pictures", "baselines")


class SeriesProbes:
    """The probes of a series of checkpoints, with the settings of its run but for some changes.

    Args:
        series: the checkpoints.
        folder: for the measurements; those that are there are kept.
        options: changes of the run's settings.

    Raises:
        InputError: nothing to measure, data that are not where they were, or a folder that holds
            other measurements.
    """

    def __init__(self, series: CheckpointSeries, folder: Path, options: MeasureOptions):
        self.series, self.folder, self.options = series, folder, options
        config: Any = {} if series.config is None else read_yaml(series.config)
        probing = {**config.get("probing", {}), **options.probing}
        sources, given = probing.get("dense") or {}, dict(w.split("=", 1) for w in options.dense)
        probing["dense"] = {
            name: _source(sources.get(name), f"--dense {name}=DIR", given.get(name, ""))
            for name in given or sources
        }
        data, other = config.get("data"), options.data
        if other is not None:
            data = _source(data, "--data.root DIR", str(other.root), type(other))
        elif data is not None:
            data = _source(data, "--data.root DIR")
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
            "precision": options.precision or str(precision),
            "family": options.family,
            "which": options.which,
        }
        parser = ClassParser(exit_on_error=False)
        parser.add_class_arguments(OnlineProbes, "probing")
        parser.add_subclass_arguments(VisionDataModule, "data", required=False)
        wanted = {"probing": probing, **({"data": data} if data else {})}
        built = parser.build(deepcopy(wanted), series.config, str(series.config), "config.yaml")
        self.probing: OnlineProbes = built.probing
        self.data: VisionDataModule | None = built.get("data")
        self._check_folder()
        self.probing.check_encoder(self._encoder(series.checkpoints[-1])[0], self.data)

    def _check_folder(self) -> None:
        """Refuse to continue in a folder that holds something else."""
        folder, reason = self.folder, ""
        if (folder / SETTINGS).is_file():
            known = read_json_as(folder / SETTINGS, dict[str, dict[str, Any]]).get("settings", {})
            plain = json.loads(json.dumps(self.settings))
            other = [key for key in plain if known.get(key) != plain[key]]
            reason = f"measurements with other settings ({', '.join(other)})" if other else ""
        elif folder.is_file() or (folder.exists() and any(folder.iterdir())):
            reason = "something else"
        if reason:
            raise InputError(f"--out {folder} holds {reason}; choose another folder", field="--out")

    def show_plan(self) -> None:
        """Print what is going to be measured."""
        series = self.series
        left_out = {f"  {path.name}": f"left out: {why}" for path, why in series.left_out.items()}
        epochs = ", ".join(str(each.epoch) for each in series.checkpoints)
        probes = describe_probes(self.probing, self.data)
        rows = {"epochs": epochs, **left_out, "probes": probes, "result": str(self.folder)}
        print_rows(f"measure {series.name}", rows)

    def measure(self, device: str) -> None:
        """Measure every checkpoint that is not measured yet, write each at once, and print them.

        Args:
            device: "cpu" or "cuda".
        """
        precision: Any = self.settings["precision"]
        fabric = Fabric(accelerator=device, devices=1, precision=precision)
        probing, series, file = self.probing, self.series, self.folder / ROWS
        inference = InferenceConfig(
            fabric.device, probing.batch_size, probing.num_workers, fabric.autocast
        )
        content = {"settings": self.settings, "environment": environment()}
        write_json(self.folder / SETTINGS, content)
        known = {
            row["epoch"]: row
            for row in read_measurements(self.folder)
            if row["encoder"] == "trained"
        }
        baselines = []
        if self.options.as_run and series.config is not None:  # measured by the run itself
            rows = read_measurements(series.config.parent)
            baselines = [row for row in rows if row["encoder"] != "trained"]
        for checkpoint in track(series.checkpoints, str(series.name)):
            encoder, weights = self._encoder(checkpoint)
            before = known.get(checkpoint.epoch)
            if before is None or before.get("weights") != weights:
                scores, features = probing.probe(encoder.to(fabric.device), self.data, inference)
                known[checkpoint.epoch] = Measurement(
                    encoder="trained",
                    epoch=checkpoint.epoch,
                    step=checkpoint.step,
                    scores=scores,
                    features=features,
                    warning="",
                    weights=weights,
                )
                write_json(file, [*baselines, *(known[epoch] for epoch in sorted(known))])
        rows = [*baselines, *(known[epoch] for epoch in sorted(known))]
        print_scores(rows)
        top = peak(rows, DENSE)
        if top is not None and len(score_curve(rows, DENSE)) > 1:
            print(
                f"mean mIoU    best {top.best:.2f} at epoch {top.epoch}, last {top.last:.2f}: "
                f"{top.lost:.2f} points lost by the end"
            )
        for alarm in alarms(rows)[-1:]:
            say(f"warning      {alarm}")
        say(f"results      {file}")
        say(f"curves       vitlab curves {self.folder}")

    def _encoder(self, checkpoint: SavedCheckpoint) -> tuple[Encoder, str]:
        """Return the encoder that the run evaluates, or the one asked for, with its hash."""
        family, which = self.options.family, self.options.which
        if checkpoint.ours and not which:
            model = Pretraining.load_from_checkpoint(checkpoint.path, map_location="cpu")
            return model.objective.encoder, fingerprint(model.objective.encoder)
        frozen = load_frozen_encoder(checkpoint.path, family=family, which=which)
        return frozen.encoder, frozen.info.hash


def _source(
    known: dict[str, Any] | None,
    option: str,
    root: str = "",
    kind: type[VisionDataModule] | None = None,
) -> dict[str, Any]:
    """Return class and arguments of a dataset.

    Args:
        known: those of the run, if it has this one.
        option: that gives its root.
        root: "" for that of the run.
        kind: the class; None for that of the run, or the one recognized in the root.
    """
    if known is None or (kind is not None and kind is not pydoc.locate(known["class_path"])):
        kind = kind or type(recognize(Path(root)))
        name = f"{kind.__module__}.{kind.__qualname__}"
        return {"class_path": name, "init_args": {"root": root}}
    root = root or known["init_args"]["root"]
    if not Path(root).exists():
        raise InputError(
            f"there is no {root}; give the place of this dataset now with {option}",
            field=option.partition(" ")[0],
        )
    return {**known, "init_args": {**known["init_args"], "root": root}}
