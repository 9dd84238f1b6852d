"""vitlab's cheap paired protocol, as the callback runs it while an encoder trains."""

from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.evaluation.features import check_ranks
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes import DenseProbe

PICTURES = 4  # test images whose predictions are kept


class FastDense(Protocol):
    """The linear map of patches by `DenseProbe`: no learning rate, no choice, no random number.

    Args:
        size: pixels of the edge of the square that all of an image is resized to.
        images: training images to learn from, the same every time; 0 for all.
        decay: L2 penalty.
        steps: L-BFGS iterations at most.
        precision: of the forward pass.
    """

    task = "segmentation"

    def __init__(
        self,
        size: int = 224,
        images: int = 0,
        decay: float = 1e-5,
        steps: int = 100,
        precision: Precision = "fp32",
    ):
        if images < 0:
            raise ValueError(f"images {images} is negative; use 0 for all, or a count")
        if steps < 1 or decay < 0:
            raise ValueError(f"steps {steps} must be 1 or more, and decay {decay} not negative")
        self.transform, self.size, self.images = SegmentationSquare(size), size, images
        self.decay, self.steps, self.precision = decay, steps, precision

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        encoder.check_img_size(self.size, "protocol.size")
        for split in (data.train_split, data.val_split):
            data.segmentation_dataset(split, self.transform).check()

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Fit on the training images, score the test images."""
        check_ranks(data, data.val_split)
        dense = DenseProbe(data.num_classes, self.decay, self.steps)
        found = dense.run(encoder, data, self.transform, self.images, context.loading)
        shown = []
        for index in range(min(PICTURES, len(found.images))):
            image, mask = found.images[index]
            tokens = context.loading.encode(encoder, image[None])
            shown.append(dense.predict(tokens, [mask.shape])[0].byte().cpu())
        return Outcome(
            headline="miou",
            scores={"miou": found.score.miou},
            evidence=found.score.overlaps,
            predictions=shown,
        )
