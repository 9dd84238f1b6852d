"""Probes of the encoder while it trains: k-NN, linear, dense, pictures.

Probing does not affect training: it draws nothing from training's random streams and uses no
gradient, so that runs with and without probes are bit-identical.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from vitlab.analysis.online_statistics import (
    LastStateRecorder,
    OnlineFeatureStatistics,
    background_class,
)
from vitlab.atomic_io import write_bytes
from vitlab.callbacks.checkpoint import save_checkpoint
from vitlab.callbacks.measurements import Measurement, MeasurementLog
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder, Pixels
from vitlab.errors import InputError
from vitlab.probes import KNN, DenseProbe, InferenceConfig, LogisticProbe, image_features
from vitlab.probes.degradation import latest_warning
from vitlab.probes.dense import FittedDenseProbe
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.layer_selection import depth_of
from vitlab.visualization.grid import encode_png
from vitlab.visualization.masks import draw_probe_grid


class ProbeScores(NamedTuple):
    """Scores and feature statistics of one encoder, see `Measurement`."""

    scores: dict[str, float]
    features: dict[str, float]


class OnlineProbes(Callback):
    """Probes the encoder under evaluation (for DINO the teacher) before, while and after it trains.

    k-NN and linear probes need labels of the training data; without labels they are left out. The
    scores are logged, so `EarlyStopping` and `ModelCheckpoint` can monitor them.

    Args:
        every_n_epochs: epochs between measurements; the last epoch is always measured, 0 measures
            only before and after training.
        dense: segmentation sets by name; each becomes a curve miou/NAME. For example
            `--probing.dense.voc2012.root DIR`. Leave empty for none.
        images: labeled images, as many of each class, that the k-NN and linear probes learn from;
            0 for all.
        dense_images: images that each dense probe learns from; 0 for all.
        size: pixels of the image edge for the k-NN and linear probes.
        dense_size: the same for dense probes; all of the image is resized to it.
        batch_size: images of one forward pass.
        num_workers: processes that decode images for the probes.
        pictures: images of each segmentation set in the picture grids; 0 for none.
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
        check_counts("probing", counts)
        self.every_n_epochs, self.dense = every_n_epochs, dense
        self.size, self.dense_size = size, dense_size
        self.view = SegmentationSquare(dense_size)
        self.images, self.dense_images = images, dense_images
        self.batch_size, self.num_workers = batch_size, num_workers
        self.pictures, self.baselines = pictures, baselines
        self.measurements = MeasurementLog()

    def check(self, encoder: Encoder, data: VisionDataModule | None) -> None:
        """Read the file lists of every set and refuse what cannot be probed.

        Raises:
            InputError: a size that the patches do not tile, or a set that is not there.
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
                    field = f"probing.dense.{name}"
                    raise InputError(f"{field}: {error}", field=field) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what training must beat."""
        if not self.baselines or self.measurements.rows or trainer.global_step:
            return
        encoder = _encoder(pl_module)
        self.measure(trainer, pl_module, Pixels(encoder.patch_size), "pixels", 0)
        self.measure(trainer, pl_module, encoder, "untrained", 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure when due; keep the checkpoint with the best mean mIoU so far."""
        epoch = trainer.current_epoch + 1
        if not is_due(trainer, self.every_n_epochs):
            return
        best = self.measurements.best("miou/mean")
        found = self.measure(trainer, pl_module, _encoder(pl_module), "trained", epoch)
        pl_module.log_dict(found.scores, logger=False)
        # decided on one rank: others may differ in the last bit, and saving takes all of them
        if trainer.strategy.broadcast(found.scores.get("miou/mean", -1.0) > best):
            save_checkpoint(trainer, "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure an epoch after which another callback has stopped the run."""
        trained = [row.step for row in self.measurements.rows if row.encoder == "trained"]
        if trainer.global_step not in trained:
            epoch = trainer.current_epoch
            self.measure(trainer, pl_module, _encoder(pl_module), "trained", epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all measurements into the folder of the run."""
        self.measurements.write(trainer)

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, encoder: Encoder, name: str, epoch: int
    ) -> Measurement:
        """Run all probes on an encoder; log, keep and return its scores."""
        began = time.perf_counter()
        precision = trainer.precision_plugin.forward_context
        loading = InferenceConfig(pl_module.device, self.batch_size, self.num_workers, precision)
        draw = None
        if self.pictures and depth_of(encoder) and trainer.is_global_zero:  # pixels have no depth
            draw = partial(self.draw, trainer, encoder, loading, f"epoch_{epoch:04d}")
        data: VisionDataModule = trainer.datamodule  # type: ignore[attr-defined]
        found = self.probe(encoder.to(pl_module.device), data, loading, draw)
        row = Measurement(name, epoch, trainer.global_step, found.scores, found.features)
        warning = latest_warning([*self.measurements.plain(), asdict(row)]) if epoch else ""
        row = replace(row, warning=warning)
        self.measurements.rows.append(row)
        seconds = time.perf_counter() - began
        logged = {**found.scores, **found.features, "probe/seconds": seconds}
        for logger in trainer.loggers if name != "pixels" else ():
            logger.log_metrics(logged, step=trainer.global_step)
        self.measurements.write(trainer)
        shown = ", ".join(f"{tag} {value:.1f}" for tag, value in found.scores.items())
        rank_zero_info(f"{name} encoder, epoch {epoch}: {shown} ({seconds:.0f} s)")
        if warning:
            rank_zero_info(f"vitlab: {warning}")
            log_text(trainer, warning)
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
            loading: device, precision, batch size and workers.
            draw: called with the name and the fitted dense probe of each set.
        """
        features: dict[str, float] = {}
        with eval_mode(encoder):
            scores = self.classify(encoder, data, loading)
            for name, source in self.dense.items():
                recorded = LastStateRecorder(encoder)
                statistics = OnlineFeatureStatistics(
                    recorded,
                    background_class(source.classes),
                    len(source.samples(source.val_split)),
                )
                fitted = DenseProbe(source.num_classes).run(
                    recorded, source, self.view, self.dense_images, loading, statistics.update
                )
                scores[f"miou/{name}"] = fitted.counts.value
                found = statistics.compute()
                features |= {f"features/{what}/{name}": value for what, value in found.items()}
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
        labeled = data.classification_dataset(data.train_split, self.size, self.images)
        train = image_features(encoder, labeled, loading)
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
        loading: InferenceConfig,
        when: str,
        name: str,
        fitted: FittedDenseProbe,
    ) -> None:
        """Draw pictures of one segmentation set, into TensorBoard and the folder of the run."""
        test = fitted.images
        spread = range(0, len(test), max(1, len(test) // self.pictures))[: self.pictures]
        images = torch.stack([test[index][0] for index in spread])
        masks = [test[index][1] for index in spread]
        classes = self.dense[name].classes
        grid = draw_probe_grid(encoder, loading, images, masks, fitted.classify, classes)
        picture = grid.render()
        folder = Path(trainer.default_root_dir) / "pictures"
        write_bytes(folder / f"{name}_{when}.png", encode_png(picture))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"pictures/{name}", picture, trainer.global_step)

    def state_dict(self) -> dict:
        """Return the measurements so far."""
        return self.measurements.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue the measurements of an earlier part of the run."""
        self.measurements.load_state_dict(state_dict)


def is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether the epoch that ends now is measured: every so many (0: none), and the last."""
    epoch = trainer.current_epoch + 1
    last = epoch == trainer.max_epochs or trainer.should_stop
    return last or (every_n_epochs > 0 and epoch % every_n_epochs == 0)


def check_counts(section: str, counts: dict[str, int]) -> None:
    """Refuse negative counts of a section of the config; of a batch size, one less is given.

    Raises:
        InputError: a count below its least value.
    """
    for name, value in counts.items():
        if value < 0:
            field = f"{section}.{name}"
            raise InputError(f"{field} is too small; 0 is the least, for batch_size 1", field=field)


def log_text(trainer: Trainer, text: str) -> None:
    """Put a warning into TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_text("warning", text, trainer.global_step)


def _encoder(module: LightningModule) -> Encoder:
    return module.objective.encoder  # type: ignore[union-attr, return-value]
