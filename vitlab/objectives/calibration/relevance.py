"""Relevance of tokens and of dimensions of [CLS] for a classifier's decision; masks of classes.

The quantities of "ViT-Calibrator: Decision Stream Calibration for Vision Transformer"
(arXiv:2304.04354) as far as its abstract tells; the formulas are those of Transformer Doctor
(NeurIPS 2024), from the same laboratory. docs/calibration.md lists what is verified.

With y the logit of an image's class, all in graph, so that it can be trained:
R^l = mean_h relu(dy / dA^{l,h}) A^{l,h} of block l, A its attention weights, n x n;
c = relu(dy / dz) relu(z) of a feature z of [CLS].

Axis letters: b images, h heads, n tokens, p patches, d width, m dimensions of a feature, c classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlab import distributed
from vitlab.encoders import record
from vitlab.encoders.hooks import ForwardCall, record_calls
from vitlab.encoders.tokens import Grid, prefix_length, split_at
from vitlab.encoders.vit import ViT
from vitlab.objectives.classification import Classifier
from vitlab.objectives.objective import ImageReader
from vitlab.precision import at_least_fp32

Feature = Literal["hidden", "cls"]


@dataclass(frozen=True)
class DecisionStream:
    """Intermediate results of one forward pass of a classifier, in graph.

    Attributes:
        patch_size: pixels of a patch edge.
        calls: of the classifier, from images to logits.
        head_calls: of its head, from [CLS] to logits.
        weights: attention weights (b, h, n, n) of each block.
        hidden: activations (b, n, m) inside the MLP of [CLS] of each block.
        states: tokens (b, n, d) that leave each block.
    """

    patch_size: int
    calls: list[ForwardCall]
    head_calls: list[ForwardCall]
    weights: list[Tensor]
    hidden: list[Tensor]
    states: list[Tensor]

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        height, width = self.calls[0].given.shape[2:]
        return height // self.patch_size, width // self.patch_size


@contextmanager
def record_stream(model: Classifier) -> Iterator[DecisionStream]:
    """Record the one forward pass inside.

        with record_stream(model) as stream:
            model(images)

    Attention is computed by plain products meanwhile: fused kernels keep no weights, and torch's
    cannot be differentiated twice.
    """
    encoder = model.encoder
    assert isinstance(encoder, ViT)
    # [CLS] may have an MLP of its own, see `CLSSpecialization`
    mlp = "mlp_cls" if hasattr(encoder.blocks[-1], "mlp_cls") else "mlp"
    with (
        sdpa_kernel(SDPBackend.MATH),
        record_calls(model) as calls,
        record_calls(model.head) as head_calls,
        record(encoder, "attn.weights") as weights,
        record(encoder, f"{mlp}.hidden") as hidden,
        record(encoder, "") as states,
    ):
        yield DecisionStream(encoder.patch_size, calls, head_calls, weights, hidden, states)


def token_relevance(
    stream: DecisionStream, labels: Int[Tensor, " b"], blocks: Sequence[int], graph: bool = True
) -> list[Float[Tensor, "b n n"]]:
    """Return R of some blocks: row i and column j is the relevance of key j for query i.

    `graph` is whether R is going to be differentiated.
    """
    weights = [stream.weights[block] for block in blocks]
    score = _score(stream, labels)
    gradients = torch.autograd.grad(score, weights, create_graph=graph, retain_graph=True)
    return [
        (at_least_fp32(gradient).relu() * at_least_fp32(weight)).mean(1)
        for gradient, weight in zip(gradients, weights, strict=True)
    ]


def received(relevance: Float[Tensor, "b n n"], grid: Grid) -> Float[Tensor, "b p"]:
    """Return the relevance of each patch as a key, summed over all queries."""
    return _of_patches(relevance.sum(1), grid)


def foreground(
    relevance: Sequence[Float[Tensor, "b n n"]], grid: Grid, threshold: float
) -> Bool[Tensor, "b p"]:
    """Return which patches are relevant for [CLS], from R of all blocks.

    The row of [CLS] in (I + R^L) ... (I + R^1) is the relevance of each patch for the decision;
    scaled to [0, 1] in each image, a patch is foreground from the threshold on. Where all are
    equal, all are foreground.
    """
    row = torch.zeros_like(relevance[0][:, :1])
    row[:, :, 0] = 1
    for each in reversed(relevance):
        row = row + row @ each
    patches = _of_patches(row[:, 0], grid)
    low, high = patches.aminmax(dim=1, keepdim=True)
    return (patches - low >= threshold * (high - low)) | (high == low)


def masked_foreground(
    masks: Bool[Tensor, "b height width"], patch_size: int
) -> Bool[Tensor, "b p"]:
    """Return which patches hold at least one true pixel; the masks are of whole patches."""
    return F.max_pool2d(masks[:, None].float(), patch_size).flatten(1) > 0


def dimension_relevance(
    stream: DecisionStream, labels: Int[Tensor, " b"], feature: Feature, graph: bool = True
) -> Float[Tensor, "b m"]:
    """Return c, the relevance of each dimension of [CLS]; never negative.

    Of the feature "hidden", that of [CLS] inside the last block's MLP, four times the width, or of
    "cls", the input of the head. `graph` is whether c is going to be differentiated.
    """
    source = stream.hidden[-1] if feature == "hidden" else stream.head_calls[0].given
    score = _score(stream, labels)
    (gradient,) = torch.autograd.grad(score, source, create_graph=graph, retain_graph=True)
    relevance = at_least_fp32(gradient).relu() * at_least_fp32(source).relu()
    return split_at(relevance, 1)[0][:, 0] if feature == "hidden" else relevance


def _score(stream: DecisionStream, labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Return the sum of the images' y, whose gradient is that of each image by itself."""
    return stream.calls[0].returned.gather(1, labels[:, None]).sum()


def _of_patches(x: Float[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b p"]:
    return split_at(x[..., None], prefix_length(x.shape[1], grid))[1][..., 0]


class ClassMasks(NamedTuple):
    """The dimensions of each class, on the CPU.

    Attributes:
        kept: true for relevant dimensions.
        images: number of images of each mask; a class with 0 keeps all dimensions.
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
        confidence, guess = at_least_fp32(model(batch.views[0][0])).softmax(-1).max(-1)
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
