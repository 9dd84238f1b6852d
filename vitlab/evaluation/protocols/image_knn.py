"""DINO's nearest neighbors of whole images (arXiv:2104.14294)."""

import warnings
from dataclasses import dataclass

from vitlab import distributed
from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.features import TableProtocol
from vitlab.evaluation.protocol import EvaluationContext, Outcome
from vitlab.probes.knn import votes
from vitlab.probes.layer_selection import check_cls
from vitlab.probes.metrics import AccuracyCounts
from vitlab.probes.neighbors import NeighborSearch
from vitlab.progress import track


@dataclass(frozen=True)
class ImageKNN(TableProtocol):
    """The k training images of most similar [CLS] vote, with weight exp(cosine / temperature).

    The k of the headline is fixed. The others are scored too, and never chosen from.

    Args:
        k: neighbors, of the headline.
        ks: neighbors of further scores; those that exceed the training images are left out, with a
            warning.
        temperature: of the votes.
    """

    task = "classification"
    k: int = 20
    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if min(self.k, *self.ks) < 1 or self.temperature <= 0:
            raise InputError(
                f"k {self.k} and ks {self.ks} must be 1 or more, and temperature "
                f"{self.temperature} above 0",
                field="protocol.k",
            )

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit, and encoders without [CLS]."""
        super().check(encoder, data)
        images = len(data.samples(data.train_split))
        if self.k > images:
            raise InputError(
                f"k {self.k} exceeds the {images} training images; use protocol.k {images} or "
                "less, or more images",
                field="protocol.k",
            )
        remedy = "nearest images are found by; use a dense protocol, such as capi-knn"
        check_cls(encoder, self.size, remedy)

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Score the test images."""
        x, y = self.table(encoder, data, data.train_split, context)
        queries, truth = self.table(encoder, data, data.val_split, context)
        every = sorted({self.k, *self.ks})
        ks = [k for k in every if k <= len(x)]
        if len(ks) < len(every):
            warnings.warn(
                f"there are {len(x)} training images, so no score for k "
                f"{', '.join(str(k) for k in every if k not in ks)}",
                stacklevel=2,
            )
        mine = slice(distributed.rank(), None, distributed.world_size())
        search = NeighborSearch(queries[mine].to(context.device), ks[-1], "cosine", context.memory)
        blocks = x.split(max(1, context.memory // (8 * x.shape[1])))
        for block in track(blocks, "neighbors"):
            search.add(block)
        neighbors, classes = search.neighbors(), data.num_classes
        y, truth = y.to(context.device), truth[mine].to(context.device)
        counts = {}
        for k in ks:
            predicted = votes(neighbors, y, classes, k, self.temperature).argmax(1)
            counts[k] = AccuracyCounts(distributed.all_gather_rows(predicted == truth))
        scores = {f"top1/k {k}": each.value for k, each in counts.items()}
        return Outcome("top1", {"top1": counts[self.k].value, **scores}, counts[self.k])
