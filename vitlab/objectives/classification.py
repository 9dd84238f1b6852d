"""Supervised pretraining: an encoder and a linear classifier of its [CLS].

"Training data-efficient image transformers & distillation through attention" (DeiT,
arXiv:2012.12877), whose recipe is the default, and "DeiT III: Revenge of the ViT"
(arXiv:2204.07118) for the binary cross-entropy. Numbers follow facebookresearch/deit.

Axis letters: b images, c classes.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import DropPath
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder
from vitlab.errors import InputError, check_fields
from vitlab.objectives.mixup import Mixup, RandomErasing
from vitlab.objectives.objective import Loss, Objective
from vitlab.optim.schedules import Progress
from vitlab.precision import at_least_fp32


class Classifier(nn.Module):
    """An encoder and a linear layer on its [CLS], after patch refinement where it has that."""

    def __init__(self, encoder: Encoder, num_classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes of normalized images."""
        return self.head(self.encoder(images).cls)


class Classification(Objective):
    """Cross-entropy, or binary cross-entropy, of a linear classifier with mixed, smoothed targets.

    Args:
        encoder: to be trained.
        num_classes: of the training data, from which `vitlab fit` takes it.
        loss: cross_entropy of the softmax with the targets, or binary_cross_entropy of a sigmoid
            for each class, where every class with a positive target counts as present (DeiT-III).
        label_smoothing: share of the target spread evenly over all classes; must be 0 for
            binary_cross_entropy, as it would make every class present.
        mixup: mixup and CutMix of pairs in a micro-batch.
        random_erasing: random erasing, before the mixing.
        ema_decay: decay of a moving average of the weights for one step, whatever the batch size;
            validated beside the weights themselves, which probes and exports use. 0 for none. DeiT
            uses 0.99996.
        drop_path: probability to skip a branch for an image, the same in all blocks (DeiT-III); 0
            leaves the encoder's own, which grows with depth.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        label_smoothing: float = 0.1,
        mixup: Mixup = Mixup(),  # noqa: B008
        random_erasing: RandomErasing = RandomErasing(),  # noqa: B008
        ema_decay: float = 0.99996,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if num_classes < 2:
            raise InputError(
                f"num_classes {num_classes} leaves nothing to learn; use data of at least 2 "
                "classes",
                field="data",
            )
        self.num_classes = self.out_dim = num_classes
        self.kind, self.label_smoothing, self.ema_decay = loss, label_smoothing, ema_decay
        binary = loss == "binary_cross_entropy"
        problems = {
            "label_smoothing": (
                not 0 <= label_smoothing < 1 or (binary and label_smoothing > 0),
                "is not in [0, 1), or not 0 with binary_cross_entropy, which counts every positive "
                "target as 1: all classes would be present in all images; DeiT uses 0.1",
            ),
            "ema_decay": (
                not 0 <= ema_decay < 1,
                "is not in [0, 1); DeiT uses 0.99996, 0 keeps none",
            ),
        }
        check_fields(self, "model.objective.", problems)
        if drop_path:
            drop_evenly(encoder, drop_path)
        self.mixup, self.random_erasing = mixup, random_erasing
        self.model = Classifier(encoder, num_classes)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if ema_decay else None

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The trained encoder, not its moving average."""
        return self.model.encoder

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the mean loss of a micro-batch against mixed and smoothed targets."""
        labels = self.labels_of(batch)
        images, targets = self.mixup(
            self.random_erasing(batch.views[0][0]), labels, self.num_classes, self.label_smoothing
        )
        logits = at_least_fp32(self.model(images))
        return Loss(classification_loss(logits, targets.to(logits.dtype), self.kind))

    @property
    def constant_loss(self) -> float:
        """Least loss of a constant prediction: how often a class is present."""
        if self.kind == "cross_entropy":
            return math.log(self.num_classes)
        share = 1 / self.num_classes
        mixed = self.mixup.prob if self.mixup.active else 0.0
        present = share + mixed * share * (1 - share)  # the other image of a pair has it alone
        return -present * math.log(present) - (1 - present) * math.log(1 - present)

    def classifiers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the model and its moving average, if any."""
        found: dict[str, Callable[[Tensor], Tensor]] = {"val": self.model}
        return found if self.ema is None else found | {"ema": self.ema}

    def after_step(self, progress: Progress) -> None:
        """Update the moving average."""
        if self.ema is not None:
            update = get_ema_multi_avg_fn(self.ema_decay)
            update(list(self.ema.parameters()), list(self.model.parameters()), None)

    def labels_of(self, batch: Batch) -> Int[Tensor, " b"]:
        """Return the labels of a batch.

        Raises:
            InputError: it has none, or one is no index of a class.
        """
        labels = batch.labels
        if labels is None or labels.min() < 0 or labels.max() >= self.num_classes:
            found = "none" if labels is None else f"{labels.min()} to {labels.max()}"
            raise InputError(
                f"Classification needs a label from 0 to {self.num_classes - 1} for each image, "
                f"and the batch has {found}; use data with class folders: ImageNet or Folder",
                field="data",
            )
        return labels

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse image sizes that patches do not tile, and more than one crop of an image."""
        crops = list(crops)
        if [count for count, _ in crops] != [1]:
            given = " + ".join(f"{count} x {size} px" for count, size in crops)
            raise InputError(
                f"data.transform makes the crops {given} and Classification needs one crop of an "
                "image; use AugmentedCrop",
                field="data.transform",
            )
        super().check_crops(crops)

    def check_micro_batch(self, images: int) -> None:
        """Refuse micro-batches that cannot be mixed."""
        self.mixup.check(images)


def classification_loss(
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    kind: Literal["cross_entropy", "binary_cross_entropy"],
) -> Float[Tensor, ""]:
    """Return the mean over images of the loss against probabilities of the classes.

    cross_entropy: -sum_c t_c log softmax(z)_c. binary_cross_entropy: the mean over classes of
    -y_c log sigmoid(z_c) - (1 - y_c) log sigmoid(-z_c) with y_c = [t_c > 0].
    """
    if kind == "binary_cross_entropy":
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(logits, targets)
    return F.cross_entropy(logits, targets)


def drop_evenly(encoder: Encoder, rate: float) -> None:
    """Set the probability to skip a branch to the same in all blocks.

    Raises:
        InputError: the rate is no probability, or the encoder has its own rates or no branches.
    """
    drops = [module for module in encoder.modules() if isinstance(module, DropPath)]
    if not 0 < rate < 1 or not drops or any(module.drop_prob for module in drops):
        field = "model.objective.drop_path"
        raise InputError(
            f"{field} {rate} is not in [0, 1), or would be ignored: {type(encoder).__name__} has "
            "no branches to skip, or rates of its own; DeiT-III-S uses 0.05",
            field=field,
        )
    for module in drops:
        module.drop_prob = rate
