"""Masks of the dimensions of [CLS] that are relevant for each class.

Part of decision-stream calibration (arXiv:2304.04354); the masks are the rules of Transformer
Doctor (NeurIPS 2024). docs/calibration.md lists what is verified.

Axis letters: b images of a batch, c classes, m dimensions of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlab import distributed
from vitlab.objectives.calibration.relevance import Feature, dimension_relevance, record_stream
from vitlab.objectives.classification import Classifier
from vitlab.objectives.objective import ImageReader


@dataclass(frozen=True)
class ClassMasks:
    """The dimensions of each class, on the CPU.

    Attributes:
        kept: true for relevant dimensions.
        images: number of images that each mask was computed from; a class with 0 keeps all
            dimensions.
    """

    kept: Bool[Tensor, "c m"]
    images: Int[Tensor, " c"]


def compute_class_masks(
    model: Classifier,
    read: ImageReader,
    count: int,
    feature: Feature,
    threshold: float,
    samples: int = 10,
) -> ClassMasks:
    """Return the masks of all classes, by a model in evaluation mode.

    Of each class, the `samples` images with the highest probability of it among those classified
    correctly; their relevances, each scaled to [0, 1], are averaged, and dimensions from the
    threshold on are kept. Nothing is drawn; of equal probabilities the first image counts.
    """
    classes = model.head.out_features
    width = model.encoder.embed_dim * (4 if feature == "hidden" else 1)
    sums = torch.zeros(classes, width, dtype=torch.double)
    images = torch.zeros(classes, dtype=torch.long)
    for batch in read(most_confident(model, read, count, samples)):
        assert batch.labels is not None
        with torch.enable_grad(), record_stream(model) as stream:
            model(batch.views[0][0].detach().requires_grad_())
        found = dimension_relevance(stream, batch.labels, feature, graph=False).detach()
        labels = batch.labels.cpu()
        sums.index_add_(0, labels, unit(found).cpu().double())
        images += labels.bincount(minlength=classes)
    mean = sums / images.clamp_min(1)[:, None]
    return ClassMasks((mean >= threshold) | (images == 0)[:, None], images)


@torch.no_grad()
def most_confident(model: Classifier, read: ImageReader, count: int, samples: int) -> Sequence[int]:
    """Return the indices of the most confident correct images, class by class.

    Each rank classifies its share of the images; the result is that of one rank.
    """
    confidences, classes = [], []
    for batch in read(range(distributed.rank(), count, distributed.world_size())):
        assert batch.labels is not None
        confidence, guess = model(batch.views[0][0]).float().softmax(-1).max(-1)
        confidences.append(torch.where(guess == batch.labels, confidence, -1.0))
        classes.append(batch.labels)
    p = distributed.all_gather_rows(torch.cat(confidences)).cpu()
    y = distributed.all_gather_rows(torch.cat(classes)).cpu()
    correct = (p >= 0).nonzero()[:, 0]
    order = correct[p[correct].argsort(descending=True, stable=True)]
    order = order[y[order].argsort(stable=True)]
    counts = y[order].bincount(minlength=model.head.out_features)
    position = torch.arange(len(order)) - (counts.cumsum(0) - counts)[y[order]]
    return order[position < samples].tolist()


def unit(x: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Return each row scaled to [0, 1]; a constant one becomes 0."""
    low, high = x.aminmax(dim=1, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
