"""Scores of the classifier while it trains: top-1, top-5, loss, calibration.

Like probing, it draws nothing from training's random streams.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from vitlab.callbacks.loggers import log_measurement
from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.data import DataError, VisionDataModule, normalize
from vitlab.errors import InputError, check_least
from vitlab.objectives import Objective
from vitlab.precision import at_least_fp32
from vitlab.probes.features import InferenceConfig, eval_mode, sharded_loader
from vitlab.progress import track
from vitlab.run.module import vision_data

BEST = "best_top1.ckpt"
TOP1 = "val/top1"
BINS = 15  # of confidence, for the calibration error


class Validation(EvaluationCallback):
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
        super().__init__("validation", every_n_epochs, batch_size, num_workers)
        self.size, self.crop = size, crop
        check_least(self, "validation.", {"size": 0})
        if not 0 < crop <= 1:
            field = "validation.crop"
            raise InputError(
                f"{field} {crop} is no part of the image; use a number in (0, 1]", field=field
            )

    def check(self, objective: Objective, data: VisionDataModule | None) -> list[str]:
        """Read the list of labeled images and refuse what cannot be scored.

        Raises:
            InputError: labels that are missing or no index of a class, or an image size that the
                patches do not tile.
        """
        self.idle = not objective.classifiers()
        if not self.idle:
            if data is None:
                raise InputError(
                    "Validation scores a classifier on the labeled images of a VisionDataModule; "
                    "give one to the trainer as datamodule, or leave the callback out",
                    field="validation",
                )
            check_labels(data, data.train_split, objective.num_classes)
            check_labels(data, data.val_split, objective.num_classes)
            size = self.size or data.transform.crop_sizes[0][1]
            objective.encoder.check_img_size(size, "validation.size")
        return []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score when due; keep the checkpoint with the best top-1 so far."""
        objective: Objective = pl_module.objective
        if not objective.classifiers() or not self.is_due(trainer):
            return
        with self.timed("trained"):
            scores = self.measure(trainer, objective)
        row = self.row(trainer, "trained", trainer.current_epoch + 1)
        row["scores"].update(scores)
        self.write(trainer)
        log_measurement(trainer, self.rows, scores, {})
        pl_module.log_dict(scores, logger=False)
        shown = ", ".join(f"{tag} {value:.2f}" for tag, value in scores.items())
        pl_module.print(f"classifier, epoch {row['epoch']}: {shown}")
        self.keep_best(trainer, row, TOP1, BEST)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the scores of the classifiers as they are, for `Trainer.validate`."""
        if trainer.state.fn == TrainerFn.VALIDATING and pl_module.objective.classifiers():
            pl_module.log_dict(self.measure(trainer, pl_module.objective))

    def measure(self, trainer: Trainer, objective: Objective) -> dict[str, float]:
        """Return the scores of all classifiers."""
        data, inference = vision_data(trainer), self.inference(trainer)
        assert data is not None, "refused in setup"
        size = self.size or data.transform.crop_sizes[0][1]
        labeled = data.classification_dataset(data.val_split, size, crop=self.crop)
        images = sharded_loader(labeled, inference)
        found: dict[str, float] = {}
        with eval_mode(objective):
            for name, classify in objective.classifiers().items():
                scores = scored(classify, images, inference, objective.num_classes)
                found |= {f"{name}/{score}": value for score, value in scores.items()}
        return found


def scored(
    classify: Callable[[Tensor], Tensor],
    images: DataLoader,
    inference: InferenceConfig,
    classes: int,
) -> dict[str, float]:
    """Return the scores of one classifier; over ranks, those of all their images together.

    Args:
        classify: makes logits (b, classes) of normalized images (b, 3, height, width).
        images: batches of 8-bit images and class indices.
        inference: device and precision.
        classes: how many there are.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "top1": MulticlassAccuracy(classes, average="micro")
    }
    if classes > 5:  # of five, all would be right
        metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
    metrics["ece"] = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1")
    percent = MetricCollection(metrics, compute_groups=False).to(inference.device)
    mean_loss = MeanMetric().to(inference.device)
    for pixels, labels in track(images, "classifier scores"):
        labels = labels.to(inference.device)
        with inference.precision():
            logits = at_least_fp32(classify(normalize(pixels.to(inference.device))))
        percent.update(logits.softmax(-1), labels)
        mean_loss.update(F.cross_entropy(logits, labels, reduction="none"))
    found = {name: 100 * float(value) for name, value in percent.compute().items()}
    found["loss"] = float(mean_loss.compute())
    return {name: found[name] for name in ("top1", "top5", "loss", "ece") if name in found}


def check_labels(data: VisionDataModule, split: str, classes: int) -> None:
    """Refuse a split without labels, or with ones that are no index of a class.

    Raises:
        DataError: the split has no labels, or ones that are no index of a class.
    """
    labels = data.samples(split).labels
    if labels is None:
        raise DataError(
            f"the objective learns classes and {data.dataset_name} has no image labels; use "
            "ImageNet or Folder, or an objective without labels, such as DINO"
        )
    if data.num_classes < 2:
        raise DataError(
            f"the objective learns classes and {data.dataset_name} has one, {data.classes[0]!r}: "
            "there is nothing to tell apart; use two or more class folders, or an objective "
            "without labels, such as DINO"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"the labels of split {split!r} go from {low} to {high}, but there are {classes} "
            f"classes, 0 to {classes - 1}; the class folders of train and {split} must be the same"
        )
