"""Scores of the classifier while it trains: top-1, top-5, loss, calibration.

Like probing, it draws nothing from training's random streams.
"""

from collections.abc import Callable

import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from vitlab.callbacks.checkpoint import save_checkpoint
from vitlab.callbacks.measurements import Measurement, MeasurementLog
from vitlab.callbacks.online_probes import check_counts, is_due
from vitlab.data import DataError, VisionDataModule, normalize
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.features import InferenceConfig, sharded_loader

BEST = "best_top1.ckpt"
TOP1 = "val/top1"
BINS = 15  # of confidence, for the calibration error


class Validation(Callback):
    """Scores the classifiers of an objective on the labeled images of `data.val_split`.

    For each of them, val (the model) and ema (the moving average of its weights): NAME/top1 and
    NAME/top5 in percent; NAME/loss, the cross-entropy in nats; NAME/ece, the expected calibration
    error in percent: 15 bins of the confidence, absolute differences. Logits become probabilities
    by a softmax, whatever loss was trained. The checkpoint with the best val/top1 is kept. The
    scores are logged, so `EarlyStopping` and `ModelCheckpoint` can monitor them.

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
        counts = {"every_n_epochs": every_n_epochs, "size": size, "batch_size": batch_size - 1}
        check_counts("validation", {**counts, "num_workers": num_workers})
        if not 0 < crop <= 1:
            field = "validation.crop"
            raise InputError(
                f"{field} {crop} is no part of the image; use a number in (0, 1]", field=field
            )
        self.every_n_epochs, self.size, self.crop = every_n_epochs, size, crop
        self.batch_size, self.num_workers = batch_size, num_workers
        self.measurements = MeasurementLog()

    def check(self, objective: Objective, data: VisionDataModule) -> None:
        """Read the list of labeled images and refuse what cannot be scored.

        Raises:
            InputError: labels that are missing or no index of a class, or an image size that the
                patches do not tile.
        """
        if objective.classifiers():
            check_labels(data, data.train_split, objective.num_classes)
            check_labels(data, data.val_split, objective.num_classes)
            size = self.size or data.transform.crop_sizes[0][1]
            objective.encoder.check_img_size(size, "validation.size")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score when due; keep the checkpoint with the best top-1 so far."""
        objective: Objective = pl_module.objective  # type: ignore[assignment]
        if not objective.classifiers() or not is_due(trainer, self.every_n_epochs):
            return
        epoch = trainer.current_epoch + 1
        best = self.measurements.best(TOP1)
        scores = self.measure(trainer, objective)
        self.measurements.add(Measurement("trained", epoch, trainer.global_step, scores))
        self.measurements.write(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=trainer.global_step)
        pl_module.log_dict(scores, logger=False)
        shown = ", ".join(f"{tag} {value:.2f}" for tag, value in scores.items())
        rank_zero_info(f"classifier, epoch {epoch}: {shown}")
        # decided on one rank, as saving takes all of them
        if trainer.strategy.broadcast(scores[TOP1] > best):
            save_checkpoint(trainer, BEST)

    def measure(self, trainer: Trainer, objective: Objective) -> dict[str, float]:
        """Return the scores of all classifiers."""
        data: VisionDataModule = trainer.datamodule  # type: ignore[attr-defined]
        loading = InferenceConfig(
            trainer.strategy.root_device,
            self.batch_size,
            self.num_workers,
            trainer.precision_plugin.forward_context,
        )
        size = self.size or data.transform.crop_sizes[0][1]
        labeled = data.classification_dataset(data.val_split, size, crop=self.crop)
        images = sharded_loader(labeled, loading)
        with eval_mode(objective):
            return {
                f"{name}/{score}": value
                for name, classify in objective.classifiers().items()
                for score, value in scored(classify, images, loading, objective.num_classes).items()
            }

    def state_dict(self) -> dict:
        """Return the measurements so far."""
        return self.measurements.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue the measurements of an earlier part of the run."""
        self.measurements.load_state_dict(state_dict)


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
        DataError: the split has no labels, or ones that are no index of a class.
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
