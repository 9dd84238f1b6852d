"""vitlab's cheap paired protocol, as the callback runs it while an encoder trains."""

from dataclasses import dataclass

from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import check_least
from vitlab.evaluation.features import check_ranks
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes import DenseProbe
from vitlab.probes.dense import patch_logits, upsample
from vitlab.probes.logistic import TOLERANCE


@dataclass(frozen=True)
class FastDense(Protocol):
    """The linear map of patches by `DenseProbe`: no learning rate, no choice, no random number.

    Args:
        size: pixels of the edge of the square that all of an image is resized to.
        max_train_images: training images to learn from, the same every time; 0 for all.
        weight_decay: L2 penalty.
        tolerance: of the fit's gradient, see `LogisticRegression.fit`.
        precision: of the forward pass.
    """

    task = "segmentation"
    size: int = 224
    max_train_images: int = 0
    weight_decay: float = 1e-5
    tolerance: float = TOLERANCE
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(
            self, "protocol.", {"max_train_images": 0, "tolerance": 1e-12, "weight_decay": 0}
        )

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse a size that does not fit."""
        encoder.check_img_size(self.size, "protocol.size")

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Fit on the training images, score the test images."""
        check_ranks(data, data.val_split)
        dense = DenseProbe(data.num_classes, self.weight_decay, self.tolerance)
        view = SegmentationSquare(self.size)
        found = dense.run(encoder, data, view, self.max_train_images, context.loading)
        shown = []
        for index in range(min(PICTURES, len(found.images))):
            image, mask = found.images[index]
            tokens = context.loading.encode(encoder, image[None])
            logits = upsample(patch_logits(found.classify, tokens), mask.shape)
            shown.append(logits[0].argmax(0).byte().cpu())
        return Outcome(
            headline="miou",
            scores={"miou": found.counts.value},
            counts=found.counts,
            predictions=shown,
            fits={"logistic regression": found.classify.fitted.convergence},
        )
