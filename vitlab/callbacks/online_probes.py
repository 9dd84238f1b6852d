"""Probes of the encoder while it trains: k-NN, linear, dense, pictures.

Probing does not affect training: it draws nothing from training's random streams and uses no
gradient, so that runs with and without probes are bit-identical.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from vitlab.analysis.online_statistics import (
    LastStateRecorder,
    OnlineFeatureStatistics,
    background_class,
)
from vitlab.callbacks.loggers import log_measurement, log_picture, log_warning
from vitlab.callbacks.measurements import EvaluationCallback, Measurement, distinct, finite
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.data.profile import check_scores
from vitlab.encoders import Encoder, Pixels
from vitlab.errors import InputError, check_least, check_names
from vitlab.objectives import Objective
from vitlab.probes import (
    KNN,
    DenseProbe,
    InferenceConfig,
    LogisticProbe,
    Probe,
    image_features,
)
from vitlab.probes.degradation import latest_warning
from vitlab.probes.dense import FittedDenseProbe
from vitlab.probes.features import check_probe, eval_mode
from vitlab.progress import ProgressBar, track
from vitlab.run.module import vision_data
from vitlab.visualization.masks import draw_probe_grid


class OnlineProbes(EvaluationCallback):
    """Probes the encoder under evaluation (for DINO the teacher) before, while and after it trains.

    k-NN and linear probes need labels of the training data; without labels, or with one class
    alone, they are left out. `EarlyStopping` and `ModelCheckpoint` can monitor all scores.

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
        more: probes of image features by name, beside knn and linear; each becomes curves
            NAME/SCORE.
    """

    def __init__(  # noqa: PLR0913, the options of a section
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
        more: dict[str, Probe] = {},  # noqa: B006
    ):
        super().__init__("probing", every_n_epochs, batch_size, num_workers)
        self.dense, self.view = dense or {}, SegmentationSquare(dense_size)
        self.size, self.dense_size = size, dense_size
        self.images, self.dense_images = images, dense_images
        self.pictures, self.baselines = pictures, baselines
        check_names(dense, "probing.dense")
        check_names(more, "probing.more")
        self.image_probes: dict[str, Probe] = {"knn": KNN(), "linear": LogisticProbe()}
        if taken := self.image_probes.keys() & more.keys():
            raise InputError(
                f"probing.more has {', '.join(taken)}, which every run has; use another name",
                field="probing.more",
            )
        self.image_probes |= more
        check_least(self, "probing.", {"images": 0, "dense_images": 0, "pictures": 0})

    def check(self, objective: Objective, data: VisionDataModule | None) -> list[str]:
        """Refuse what cannot be probed, see `check_encoder`."""
        return self.check_encoder(objective.encoder, data)

    def check_encoder(self, encoder: Encoder, data: VisionDataModule | None) -> list[str]:
        """Read the file lists of every set and refuse what cannot be probed.

        Returns:
            What makes scores poor, in sentences.

        Raises:
            InputError: a size that the patches do not tile, a set that is not there, or one on
                which a score would mean nothing.
        """
        encoder.check_img_size(self.size, "probing.size")
        encoder.check_img_size(self.dense_size, "probing.dense_size")
        remarks = []
        if data is not None and has_labels(data):
            data.classification_dataset(data.val_split, self.size)
            remarks += check_scores(data, data.train_split)
            for name, probe in self.image_probes.items():
                field = f"probing.more.{name}"
                check_probe(probe, encoder.embed_dim, data.num_classes, field)
        for name, source in self.dense.items():
            field = f"probing.dense.{name}"
            try:
                source.segmentation_dataset(source.val_split, self.view)
                remarks += [f"{name}: {each}" for each in check_scores(source, source.train_split)]
            except ValueError as error:
                raise InputError(f"{field}: {error}", field=field) from error
        return remarks

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure what training must beat."""
        if not self.baselines or self.rows or trainer.global_step:
            return
        encoder = pl_module.objective.encoder
        self.measure(trainer, pl_module, Pixels(encoder.patch_size), "pixels", 0)
        self.measure(trainer, pl_module, encoder, "untrained", 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure when due; keep the checkpoint with the best mean mIoU so far."""
        if self.is_due(trainer):
            epoch = trainer.current_epoch + 1
            row = self.measure(trainer, pl_module, pl_module.objective.encoder, "trained", epoch)
            pl_module.log_dict(finite(row["scores"]), logger=False)
            self.keep_best(trainer, row, "miou/mean", "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure an epoch after which another callback has stopped the run."""
        trained = [row["step"] for row in self.rows if row["encoder"] == "trained"]
        if trainer.global_step not in trained:
            encoder, epoch = pl_module.objective.encoder, trainer.current_epoch
            self.measure(trainer, pl_module, encoder, "trained", epoch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the scores of the encoder as it is, for `Trainer.validate`."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            data, inference = vision_data(trainer), self.inference(trainer)
            scores, _ = self.probe(pl_module.objective.encoder, data, inference)
            pl_module.log_dict(scores)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write all measurements into the folder of the run."""
        self.write(trainer)

    def measure(
        self, trainer: Trainer, pl_module: Any, encoder: Encoder, name: str, epoch: int
    ) -> Measurement:
        """Run all probes on an encoder; log, keep and return its scores."""
        began = time.perf_counter()
        inference, data = self.inference(trainer), vision_data(trainer)

        def draw(dataset: str, fitted: FittedDenseProbe) -> None:
            test, classes = fitted.images, self.dense[dataset].classes
            spread = range(0, len(test), max(1, len(test) // self.pictures))[: self.pictures]
            images, masks = zip(*(test[index][:2] for index in spread), strict=True)
            grid = draw_probe_grid(
                encoder, inference, torch.stack(images), masks, fitted.classify, classes
            )
            file = f"pictures/{dataset}_epoch_{epoch:04d}.png"
            grid.save(Path(trainer.default_root_dir) / file, scale=1)
            # loggers show it small: text is twice as large beside the images
            card = replace(grid, height=grid.height // 2).encode()
            log_picture(trainer, f"pictures/{dataset}", card)

        drawn = self.pictures and name != "pixels" and trainer.is_global_zero
        encoder = encoder.to(pl_module.device)
        with self.timed(name):
            scores, features = self.probe(encoder, data, inference, draw if drawn else None)
        row = self.row(trainer, name, epoch)
        row["scores"].update(scores)
        row["features"].update(features)
        row["warning"] = latest_warning(self.rows) if epoch else ""
        seconds = time.perf_counter() - began
        if name == "pixels":
            log_measurement(trainer, self.rows, {}, {})
        else:
            log_measurement(trainer, self.rows, scores, {**features, "probe/seconds": seconds})
        self.write(trainer)
        shown = ", ".join(f"{tag} {value:.1f}" for tag, value in distinct(scores).items())
        pl_module.print(f"{name} encoder, epoch {epoch}: {shown} ({seconds:.0f} s)")
        if row["warning"]:
            log_warning(trainer, row["warning"])
        return row

    def probe(
        self,
        encoder: Encoder,
        data: VisionDataModule | None,
        inference: InferenceConfig,
        draw: Callable[[str, FittedDenseProbe], None] | None = None,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Run all probes on an encoder.

        The callback calls this while an encoder trains, and `vitlab measure` afterwards.

        Args:
            encoder: on the device of `inference`.
            data: whose labeled images the image-level probes learn from, if it has labels; None
                for no such probes.
            inference: device, precision, batch size and workers.
            draw: called with the name and the fitted dense probe of each set.

        Returns:
            Scores and patch statistics, see `Measurement`.
        """
        features: dict[str, float] = {}
        with eval_mode(encoder):
            scores = self.classify(encoder, data, inference)
            for name, source in self.dense.items():
                recorded = LastStateRecorder(encoder)
                images = len(source.samples(source.val_split))
                background = background_class(source.classes)
                statistics = OnlineFeatureStatistics(recorded, background, images)
                probe = DenseProbe(source.num_classes)
                with ProgressBar(f"mIoU on {name}"):
                    fitted = probe.run(
                        recorded, source, self.view, self.dense_images, inference, statistics.update
                    )
                scores[f"miou/{name}"] = fitted.counts.value
                found = statistics.compute()
                features |= {f"features/{what}/{name}": value for what, value in found.items()}
                if draw is not None:
                    draw(name, fitted)
        if self.dense:
            defined = finite({name: scores[f"miou/{name}"] for name in self.dense}).values()
            scores["miou/mean"] = sum(defined) / len(defined) if defined else math.nan
        return scores, features

    def classify(
        self, encoder: Encoder, data: VisionDataModule | None, inference: InferenceConfig
    ) -> dict[str, float]:
        """Return k-NN and linear accuracy on the labeled images, nothing if they have no labels."""
        if data is None or not has_labels(data):
            return {}
        labeled = data.classification_dataset(data.train_split, self.size, self.images)
        train = image_features(encoder, labeled, inference)
        labeled = data.classification_dataset(data.val_split, self.size)
        test = image_features(encoder, labeled, inference)
        return {
            f"{name}/{score}": float(value)
            for name, probe in track(self.image_probes.items(), "k-NN and linear probes")
            for score, value in probe.fit_score(train, test).items()
        }


def has_labels(data: VisionDataModule) -> bool:
    """Whether images have labels of more than one class: of one, every encoder would score 100."""
    return data.samples(data.train_split).labels is not None and data.num_classes > 1
