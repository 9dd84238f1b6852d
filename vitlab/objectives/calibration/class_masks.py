"""Which dimensions of [CLS] each class may rest on: those its surest images rest on.

Part of decision-stream calibration (arXiv:2304.04354); how rules are made is Transformer Doctor's
(NeurIPS 2024). What is verified and what is not: docs/calibration.md.

Axis letters: n images, b images of a batch, c classes, m dimensions of a feature.
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
    """The dimensions each class keeps, on the CPU.

    Attributes:
        kept: true for those.
        evidence: how many images each rule was made of; one of 0 keeps all dimensions.
    """

    kept: Bool[Tensor, "c m"]
    evidence: Int[Tensor, " c"]


def compute_class_masks(
    model: Classifier,
    read: ImageReader,
    count: int,
    feature: Feature,
    threshold: float,
    samples: int = 10,
) -> ClassMasks:
    """Return the rules of all classes.

    Of each class, the `samples` images with the highest probability of it among those classified
    correctly; their relevances, each scaled to [0, 1], are averaged, and dimensions from the
    threshold on are kept. Nothing is drawn; of equal probabilities the first image counts.

    Args:
        model: in evaluation mode.
        read: gives labeled images by index.
        count: of the images.
        feature: see `dimension_relevance`.
        threshold: in [0, 1]; 0 keeps everything.
        samples: images for each class, at most.
    """
    classes = model.head.out_features
    chosen = most_confident(model, read, count, samples)
    sums, evidence = None, torch.zeros(classes, dtype=torch.long)
    for batch in read(chosen):
        assert batch.labels is not None
        with torch.enable_grad(), record_stream(model) as stream:
            model(batch.views[0][0].detach().requires_grad_())
        found = dimension_relevance(stream, batch.labels, feature, graph=False).detach()
        labels, scaled = batch.labels.cpu(), unit(found).cpu().double()
        if sums is None:
            sums = torch.zeros(classes, scaled.shape[1], dtype=torch.double)
        sums.index_add_(0, labels, scaled)
        evidence += labels.bincount(minlength=classes)
    if sums is None:  # nothing is classified correctly
        width = model.encoder.embed_dim * (4 if feature == "hidden" else 1)
        return ClassMasks(torch.ones(classes, width, dtype=torch.bool), evidence)
    mean = sums / evidence.clamp_min(1)[:, None]
    return ClassMasks((mean >= threshold) | (evidence == 0)[:, None], evidence)


@torch.no_grad()
def most_confident(model: Classifier, read: ImageReader, count: int, samples: int) -> Sequence[int]:
    """Return the images that rules are made of, class by class, the surest first.

    Each rank looks at its share of the images; the answer is that of one rank.
    """
    surety, classes = [], []
    for batch in read(range(distributed.rank(), count, distributed.world_size())):
        assert batch.labels is not None
        probability, guess = model(batch.views[0][0]).float().softmax(-1).max(-1)
        surety.append(torch.where(guess == batch.labels, probability, -1.0))
        classes.append(batch.labels)
    p, y = (
        distributed.all_gather_rows(torch.cat(surety)).cpu(),
        distributed.all_gather_rows(torch.cat(classes)).cpu(),
    )
    correct = (p >= 0).nonzero()[:, 0]
    order = correct[p[correct].argsort(descending=True, stable=True)]
    order = order[y[order].argsort(stable=True)]
    counts = y[order].bincount(minlength=model.head.out_features)
    turn = torch.arange(len(order)) - (counts.cumsum(0) - counts)[y[order]]
    return order[turn < samples].tolist()


def unit(x: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Return each row scaled to [0, 1]; one whose values are all alike becomes 0."""
    low, high = x.aminmax(dim=1, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
