"""Measures the encoder while it trains: k-NN, linear probe, dense probe, pictures.

Frozen and apart: probing draws nothing from the training's random streams and touches no gradient.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from vitlab.analysis.online_statistics import (
    LastStateRecorder,
    OnlineFeatureStatistics,
    background_class,
)
from vitlab.atomic_io import write_bytes, write_json
from vitlab.callbacks.checkpoint import keep
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder, Pixels
from vitlab.probes import KNN, DenseProbe, InferenceConfig, LogisticProbe, image_features
from vitlab.probes.degradation import warn_of
from vitlab.probes.dense import FittedDenseProbe
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.layer_selection import depth_of
from vitlab.visualization.grid import encode_png
from vitlab.visualization.masks import draw_probe_grid


@dataclass(frozen=True)
class Measurement:
    """Scores of one encoder at one time.

    Attributes:
        encoder: "pixels", "untrained" or "trained".
        epoch: epochs trained.
        step: optimizer steps taken.
        scores: percent, by TensorBoard tag.
        features: what the patches are like, in units of their own, by TensorBoard tag.
        warning: a sentence on the course of training so far; "" for none.
    """

    encoder: str
    epoch: int
    step: int
    scores: dict[str, float] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class ProbeScores:
    """What the probes say of one encoder.

    Attributes:
        scores, features: as in a `Measurement`.
    """

    scores: dict[str, float]
    features: dict[str, float]


class OnlineProbes(Callback):
    """Probes the encoder under evaluation (for DINO the teacher) before, while and after it trains.

    k-NN and linear probes need labels of the training data; where there are none, the plan says so.

    Args:
        every_n_epochs: epochs between measurements; the last epoch is always measured, 0 measures only
            before and after training.
        dense: segmentation sets by name; each becomes a curve miou/NAME. For example
            `--probing.dense.voc2012.root DIR`. Leave empty for none.
        images: labeled images, as many of each class, that the k-NN and linear probes learn from;
            0 for all.
        dense_images: images that each dense probe learns from; 0 for all.
        size: pixels of the image edge for the k-NN and linear probes.
        dense_size: the same for dense probes; all of the image is resized to it.
        batch_size: images of one forward pass.
        num_workers: processes that decode images for the probes.
        pictures: images of each segmentation set in the picture sheets; 0 for none.
        baselines: whether the untrained encoder and raw pixels are measured before training.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
        dense: dict[str, VisionDataModule] = {},  # noqa: B006
        images: int = 0,
        dense_images: int = 0,
        size: int = 224,
        dense_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 4,
        pictures: int = 4,
        baselines: bool = True,
    ):
        counts = {"every_n_epochs": every_n_epochs, "images": images, "dense_images": dense_images}
        counts |= {"batch_size": batch_size - 1, "num_workers": num_workers, "pictures": pictures}
        for name, value in counts.items():
            if value < 0:
                raise ValueError(f"probing.{name} is too small; 0 is the least, for batch_size 1")
        self.every_n_epochs, self.dense = every_n_epochs, dense
        self.size, self.dense_size = size, dense_size
        self.view = SegmentationSquare(dense_size)
        self.images, self.dense_images = images, dense_images
        self.batch_size, self.num_workers = batch_size, num_workers
        self.pictures, self.baselines = pictures, baselines
        self.measurements: list[Measurement] = []

    def check(self, encoder: Encoder, data: VisionDataModule | None) -> None:
        """Read the file lists of every set and refuse what cannot be probed.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        encoder.check_img_size(self.size, "probing.size")
        encoder.check_img_size(self.dense_size, "probing.dense_size")
        if data is not None and data.samples(data.train_split).labels is not None:
            data.classification_dataset(data.val_split, self.size)
        for name, source in self.dense.items():
            for split in (source.train_split, source.val_split):
                try:
                    source.segmentation_dataset(split, self.view).check()
                except ValueError as error:
                    raise ValueError(f"probing.dense.{name}: {error}") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what training must beat."""
        if not self.baselines or self.measurements or trainer.global_step:
            return
        encoder: Encoder = pl_module.objective.encoder  # type: ignore[assignment, union-attr]
        self.measure(trainer, pl_module, Pixels(encoder.patch_size), "pixels")
        self.measure(trainer, pl_module, encoder, "untrained")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure when due; keep the checkpoint with the best mean mIoU so far."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop
        if not last and (self.every_n_epochs == 0 or epoch % self.every_n_epochs):
            return
        best = self.best()
        encoder: Encoder = pl_module.objective.encoder  # type: ignore[assignment, union-attr]
        scores = self.measure(trainer, pl_module, encoder, "trained").scores
        # decided on one rank: others may differ in the last bit, and saving takes all of them
        better = trainer.strategy.broadcast(scores.get("miou/mean", -1.0) > best)
        if better:
            keep(trainer, "best.ckpt")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all measurements beside the run."""
        self.write(trainer)

    def best(self) -> float:
        """Return the best mean mIoU of the trained encoder so far, in percent; -1 for none."""
        trained = [m for m in self.measurements if m.encoder == "trained"]
        return max((m.scores.get("miou/mean", -1.0) for m in trained), default=-1.0)

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, encoder: Encoder, name: str
    ) -> Measurement:
        """Run all probes on an encoder; log, keep and return its scores."""
        began = time.perf_counter()
        precision = trainer.precision_plugin.forward_context
        loading = InferenceConfig(pl_module.device, self.batch_size, self.num_workers, precision)
        epoch = trainer.current_epoch + (name == "trained")

        def draw(set_name: str, fitted: FittedDenseProbe) -> None:
            self.draw(trainer, encoder, set_name, fitted, loading, f"epoch_{epoch:04d}")

        data: VisionDataModule = trainer.datamodule  # type: ignore[attr-defined]
        found = self.probe(encoder.to(pl_module.device), data, loading, draw)
        row = Measurement(name, epoch, trainer.global_step, found.scores, found.features)
        warning = warn_of([*map(asdict, self.measurements), asdict(row)]) if epoch else ""
        row = replace(row, warning=warning)
        self.measurements.append(row)
        seconds = time.perf_counter() - began
        if trainer.logger is not None and name != "pixels":
            logged = {**found.scores, **found.features, "probe/seconds": seconds}
            trainer.logger.log_metrics(logged, step=trainer.global_step)
        self.write(trainer)
        shown = ", ".join(f"{tag} {value:.1f}" for tag, value in found.scores.items())
        rank_zero_info(f"{name} encoder, epoch {epoch}: {shown} ({seconds:.0f} s)")
        if warning:
            rank_zero_info(f"vitlab: {warning}")
            self.say(trainer, warning)
        return row

    def probe(
        self,
        encoder: Encoder,
        data: VisionDataModule | None,
        loading: InferenceConfig,
        draw: Callable[[str, FittedDenseProbe], None] | None = None,
    ) -> ProbeScores:
        """Run all probes on an encoder.

        The callback calls this while an encoder trains, and `vitlab measure` afterwards.

        Args:
            encoder: on the device of `loading`.
            data: whose labeled images the image-level probes learn from, if it has labels; None
                for no such probes.
            loading: device, precision, batch and workers.
            draw: is given the fitted dense probe of each set.
        """
        features: dict[str, float] = {}
        with eval_mode(encoder):
            scores = self.classify(encoder, data, loading)
            for name, source in self.dense.items():
                watched = LastStateRecorder(encoder)
                statistics = OnlineFeatureStatistics(
                    watched, background_class(source.classes), len(source.samples(source.val_split))
                )
                fitted = DenseProbe(source.num_classes).run(
                    watched, source, self.view, self.dense_images, loading, statistics.update
                )
                scores[f"miou/{name}"] = fitted.score.miou
                seen = statistics.compute()
                features |= {f"features/{what}/{name}": value for what, value in seen.items()}
                if draw is not None:
                    draw(name, fitted)
        dense = [value for tag, value in scores.items() if tag.startswith("miou/")]
        if dense:
            scores["miou/mean"] = sum(dense) / len(dense)
        return ProbeScores(scores, features)

    def classify(
        self, encoder: Encoder, data: VisionDataModule | None, loading: InferenceConfig
    ) -> dict[str, float]:
        """Return k-NN and linear accuracy on the labeled images, nothing if they have no labels."""
        if data is None or data.samples(data.train_split).labels is None:
            return {}
        train = image_features(
            encoder, data.classification_dataset(data.train_split, self.size, self.images), loading
        )
        test = image_features(
            encoder, data.classification_dataset(data.val_split, self.size), loading
        )
        probes = {"knn": KNN(), "linear": LogisticProbe()}
        return {
            f"{name}/{score}": value
            for name, probe in probes.items()
            for score, value in probe.fit_score(train, test).items()
        }

    def draw(
        self,
        trainer: Trainer,
        encoder: Encoder,
        name: str,
        fitted: FittedDenseProbe,
        loading: InferenceConfig,
        when: str,
    ) -> None:
        """Draw pictures of one segmentation set, if any are wanted."""
        test = fitted.images
        # raw pixels have no attention
        if self.pictures and depth_of(encoder) and trainer.is_global_zero:
            spread = range(0, len(test), max(1, len(test) // self.pictures))[: self.pictures]
            images = torch.stack([test[index][0] for index in spread])
            masks = [test[index][1] for index in spread]
            classes = self.dense[name].classes
            sheet = draw_probe_grid(encoder, loading, images, masks, fitted.classify, classes)
            self.show(trainer, sheet.render(), name, when)

    def show(self, trainer: Trainer, picture: torch.Tensor, name: str, when: str) -> None:
        """Put a picture into TensorBoard and beside the run."""
        folder = Path(trainer.default_root_dir) / "pictures"
        write_bytes(folder / f"{name}_{when}.png", encode_png(picture))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"pictures/{name}", picture, trainer.global_step)

    def say(self, trainer: Trainer, warning: str) -> None:
        """Put a warning into TensorBoard."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_text("warning", warning, trainer.global_step)

    @rank_zero_only
    def write(self, trainer: Trainer) -> None:
        """Write all measurements so far beside the run."""
        rows = [asdict(measurement) for measurement in self.measurements]
        write_json(Path(trainer.default_root_dir) / "measurements.json", rows)

    def state_dict(self) -> dict:
        """Return the measurements so far."""
        return {"measurements": [asdict(measurement) for measurement in self.measurements]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue the measurements of an earlier part of the run."""
        self.measurements = [Measurement(**row) for row in state_dict["measurements"]]
