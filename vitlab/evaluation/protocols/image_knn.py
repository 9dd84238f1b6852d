"""DINO's nearest neighbors of whole images (arXiv:2104.14294)."""

import warnings

from torch import Tensor

from vitlab import distributed
from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.features import Source, image_table
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes.knn import votes
from vitlab.probes.layer_selection import LayerSelection, check_cls, check_layers
from vitlab.probes.metrics import AccuracyCounts
from vitlab.probes.neighbors import NeighborSearch


class ImageKNN(Protocol):
    """The k training images of most similar [CLS] vote, with weight exp(cosine / temperature).

    The k of the headline is fixed. The others are scored too, and never chosen from.

    Args:
        k: neighbors, of the headline.
        ks: neighbors of further scores; those that exceed the training images are left out, with a
            warning.
        temperature: of the votes.
        size: pixels of the center crop, which is 7/8 of the short side.
        layer_selection: which [CLS].
        precision: of the forward pass.
    """

    task = "classification"

    def __init__(
        self,
        k: int = 20,
        ks: tuple[int, ...] = (10, 20, 100, 200),
        temperature: float = 0.07,
        size: int = 224,
        layer_selection: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        precision: Precision = "fp32",
    ):
        if min(k, *ks) < 1 or temperature <= 0:
            raise InputError(
                f"k {k} and ks {tuple(ks)} must be 1 or more, and temperature {temperature} above "
                "0",
                field="protocol.k",
            )
        self.k, self.ks, self.temperature = k, tuple(sorted({k, *ks})), temperature
        self.size, self.layer_selection, self.precision = size, layer_selection, precision

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit, and encoders without [CLS]."""
        encoder.check_img_size(self.size, "protocol.size")
        check_layers(encoder, [self.layer_selection])
        images = len(data.samples(data.train_split))
        if self.k > images:
            raise InputError(
                f"k {self.k} exceeds the {images} training images; use protocol.k {images} or "
                "less, or more images",
                field="protocol.k",
            )
        for split in (data.train_split, data.val_split):
            check_classes(data, split, self.size)
        remedy = "nearest images are found by; use a dense protocol, such as capi-knn"
        check_cls(encoder, self.size, remedy)

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Score the test images."""
        source = Source(encoder, data, self.layer_selection, self.size, self.precision)
        train = image_table(source, data.train_split, context)
        test = image_table(source, data.val_split, context)
        ks = [k for k in self.ks if k <= len(train.x)]
        if len(ks) < len(self.ks):
            warnings.warn(
                f"there are {len(train.x)} training images, so no score for k "
                f"{', '.join(str(k) for k in self.ks if k not in ks)}",
                stacklevel=2,
            )
        mine = slice(distributed.rank(), None, distributed.world_size())
        search = NeighborSearch(test.x[mine].to(context.device), ks[-1], "cosine", context.memory)
        blocks = train.x.split(max(1, context.memory // (8 * train.x.shape[1])))
        for block in context.track(blocks, "neighbors", total=len(blocks)):
            search.add(block)
        neighbors = search.neighbors()
        labels, truth = train.y.to(context.device), test.y[mine].to(context.device)

        def predicted(k: int) -> Tensor:
            return votes(neighbors, labels, data.num_classes, k, self.temperature).argmax(1)

        correct = {
            k: AccuracyCounts(distributed.all_gather_rows(predicted(k) == truth)) for k in ks
        }
        return Outcome(
            headline="top1",
            scores={
                "top1": correct[self.k].value,
                **{f"top1/k {k}": each.value for k, each in correct.items()},
            },
            counts=correct[self.k],
        )


def check_classes(data: VisionDataModule, split: str, size: int) -> None:
    """Refuse a split without labels, or with classes that the dataset does not name.

    Raises:
        InputError: the split.
    """
    highest = int(data.classification_dataset(split, size).labels.max())  # refuses masks alone
    if highest >= data.num_classes:
        raise InputError(
            f"split {split!r} of {type(data).__name__} holds class {highest}, but it names "
            f"{data.num_classes} classes; name all of them",
            field="data",
        )
