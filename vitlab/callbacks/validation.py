"""Scores the classifier while it trains: top-1, top-5, loss, calibration.

Apart from training, as the probes: it draws nothing from the run's random streams.
"""

from collections.abc import Callable

import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from vitlab.callbacks.checkpoint import keep
from vitlab.callbacks.online_probes import Measurement, OnlineProbes
from vitlab.data import DataError, VisionDataModule, normalize
from vitlab.objectives import Objective
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.features import InferenceConfig, sharded_loader

BEST = "best_top1.ckpt"
TOP1 = "val/top1"
BINS = 15  # of confidence, for the calibration error


class Validation(Callback):
    """Scores what an objective offers as classifiers on the labeled images of `data.val_split`.

    For each of them, val (the model) and ema (the moving average of its weights): NAME/top1 and
    NAME/top5 in percent; NAME/loss, the cross-entropy in nats; NAME/ece, the expected calibration
    error in percent: 15 bins of the confidence, absolute differences. Logits become probabilities
    by a softmax, whatever loss was trained. The checkpoint with the best val/top1 is kept.

    Args:
        every_n_epochs: epochs between scores; the last epoch is always scored, 0 scores only that.
        size: pixels of the image edge; 0 for that of the training crops.
        crop: share of an image's short side that is seen.
        batch_size: images of one forward pass.
        num_workers: processes that decode images.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        size: int = 0,
        crop: float = 0.875,
        batch_size: int = 64,
        num_workers: int = 4,
    ):
        for name, value in [
            ("every_n_epochs", every_n_epochs),
            ("size", size),
            ("batch_size", batch_size - 1),
            ("num_workers", num_workers),
        ]:
            if value < 0:
                raise ValueError(
                    f"validation.{name} is too small; 0 is the least, for batch_size 1"
                )
        if not 0 < crop <= 1:
            raise ValueError(
                f"validation.crop {crop} is no part of the image; use a number in (0, 1]"
            )
        self.every_n_epochs, self.size, self.crop = every_n_epochs, size, crop
        self.batch_size, self.num_workers = batch_size, num_workers
        self.settings = (every_n_epochs, size, crop, batch_size, num_workers)
        self.probing = OnlineProbes()  # the one of the run takes its place

    def check(self, objective: Objective, data: VisionDataModule, probing: OnlineProbes) -> None:
        """Read the list of labeled images and refuse what cannot be scored.

        Args:
            objective: whose classifiers are scored.
            data: with the images.
            probing: of the run; keeps the scores beside its own.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        self.probing = probing
        if not objective.classifiers():
            if self.settings != Validation().settings:
                raise ValueError(
                    f"validation is set, but {type(objective).__name__} trains no classifier and it "
                    "would be ignored; leave it out"
                )
            return
        check_labels(data, data.train_split, objective.num_classes)
        check_labels(data, data.val_split, objective.num_classes)
        objective.encoder.check_img_size(
            self.size or data.transform.crop_sizes[0][1], "validation.size"
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score when due; keep the checkpoint with the best top-1 so far."""
        objective: Objective = pl_module.objective  # type: ignore[assignment]
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop
        if not objective.classifiers() or (
            not last and (self.every_n_epochs == 0 or epoch % self.every_n_epochs)
        ):
            return
        best = max((m.scores.get(TOP1, -1.0) for m in self.probing.measurements), default=-1.0)
        scores = self.measure(trainer, objective)
        self.keep(Measurement("trained", epoch, trainer.global_step, scores))
        self.probing.write(trainer)
        if trainer.logger is not None:
            trainer.logger.log_metrics(scores, step=trainer.global_step)
        shown = ", ".join(f"{tag} {value:.2f}" for tag, value in scores.items())
        rank_zero_info(f"classifier, epoch {epoch}: {shown}")
        # decided on one rank, as saving takes all of them
        if trainer.strategy.broadcast(scores[TOP1] > best):
            keep(trainer, BEST)

    def keep(self, found: Measurement) -> None:
        """Put scores beside those of the probes, in the same row where they measured too."""
        for row in self.probing.measurements:
            if (row.encoder, row.epoch) == (found.encoder, found.epoch):
                row.scores.update(found.scores)
                return
        self.probing.measurements.append(found)

    def measure(self, trainer: Trainer, objective: Objective) -> dict[str, float]:
        """Return the scores of all classifiers."""
        data: VisionDataModule = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        loading = InferenceConfig(
            device, self.batch_size, self.num_workers, trainer.precision_plugin.forward_context
        )
        size = self.size or data.transform.crop_sizes[0][1]
        images = sharded_loader(
            data.classification_dataset(data.val_split, size, crop=self.crop), loading
        )
        with eval_mode(objective):
            return {
                f"{name}/{score}": value
                for name, classify in objective.classifiers().items()
                for score, value in scored(classify, images, loading, objective.num_classes).items()
            }


def scored(
    classify: Callable[[Tensor], Tensor], images: DataLoader, loading: InferenceConfig, classes: int
) -> dict[str, float]:
    """Return the scores of one classifier; over ranks, those of all their images together.

    Args:
        classify: makes logits (b, classes) of normalized images (b, 3, height, width).
        images: batches of 8-bit images and class indices.
        loading: device and precision.
        classes: number of classes.
    """
    metrics: dict[str, Metric] = {"top1": MulticlassAccuracy(classes, average="micro")}
    if classes > 5:  # of five, all would be right
        metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
    metrics["loss"] = MeanMetric()
    metrics["ece"] = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1")
    for metric in metrics.values():
        metric.to(loading.device)
    for pixels, labels in images:
        labels = labels.to(loading.device)
        with loading.precision():
            logits = classify(normalize(pixels.to(loading.device)))
        logits = logits.float()
        for name, metric in metrics.items():
            if name == "loss":
                metric.update(F.cross_entropy(logits, labels, reduction="none"))
            else:
                metric.update(logits.softmax(-1), labels)
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    return {name: value if name == "loss" else 100 * value for name, value in found.items()}


def check_labels(data: VisionDataModule, split: str, classes: int) -> None:
    """Refuse a split without labels, or with ones that are no index of a class.

    Raises:
        DataError: what was given, what is allowed, what to do.
    """
    labels = data.samples(split).labels
    if labels is None:
        raise DataError(
            f"the objective learns classes and {type(data).__name__} has no image labels; use "
            "ImageNet or Folder, or an objective without labels, such as DINO"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"the labels of split {split!r} go from {low} to {high}, but there are {classes} "
            f"classes, 0 to {classes - 1}; the class folders of train and {split} must be the same"
        )
