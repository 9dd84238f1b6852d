"""What a classifier's decision for a class rests on: which tokens, which dimensions of [CLS].

The quantities of "ViT-Calibrator: Decision Stream Calibration for Vision Transformer"
(arXiv:2304.04354) as far as its abstract tells; the formulas are those of Transformer Doctor
(NeurIPS 2024), from the same laboratory. docs/calibration.md says what is verified and what is not.

With y the logit of an image's class, all in graph, so that it can be trained:
R^l = mean_h relu(dy / dA^{l,h}) A^{l,h} of block l, A its attention weights, n x n;
c = relu(dy / dz) relu(z) of a feature z of [CLS].

Axis letters: b images, l blocks, h heads, n tokens, p patches, d width, m dimensions of a feature,
c classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlab.encoders import record
from vitlab.encoders.hooks import ForwardCall, record_calls
from vitlab.encoders.tokens import Grid, prefix_length, split_at
from vitlab.encoders.vit import ViT
from vitlab.objectives.classification import Classifier

Feature = Literal["hidden", "cls"]


@dataclass(frozen=True)
class DecisionStream:
    """What passes through a classifier in one forward pass, in graph.

    Attributes:
        patch: pixels of a patch edge.
        whole: from images to logits.
        head: from [CLS] to logits.
        weights: attention weights (b, h, n, n) of each block.
        hidden: activations (b, n, m) inside the MLP of [CLS] of each block.
        states: tokens (b, n, d) that leave each block.
    """

    patch: int
    whole: list[ForwardCall]
    head: list[ForwardCall]
    weights: list[Tensor]
    hidden: list[Tensor]
    states: list[Tensor]

    @property
    def images(self) -> Float[Tensor, "b 3 height width"]:
        """What the classifier was shown."""
        return self.whole[0].given

    @property
    def logits(self) -> Float[Tensor, "b c"]:
        """What it said."""
        return self.whole[0].returned

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        return self.images.shape[2] // self.patch, self.images.shape[3] // self.patch


@contextmanager
def record_stream(model: Classifier) -> Iterator[DecisionStream]:
    """Keep what passes through a classifier in the one forward pass inside.

        with follow(model) as stream:
            model(images)

    Attention is computed by plain products meanwhile: fused kernels keep no weights, and torch's
    cannot be differentiated twice.

    Args:
        model: with a ViT as encoder.
    """
    encoder = model.encoder
    assert isinstance(encoder, ViT)
    own = hasattr(
        encoder.blocks[-1], "mlp_cls"
    )  # [CLS] has an MLP of its own, see `CLSSpecialization`
    with (
        sdpa_kernel(SDPBackend.MATH),
        record_calls(model) as whole,
        record_calls(model.head) as head,
        record(encoder, "attn.weights") as weights,
        record(encoder, "mlp_cls.hidden" if own else "mlp.hidden") as hidden,
        record(encoder, "") as states,
    ):
        yield DecisionStream(encoder.patch_size, whole, head, weights, hidden, states)


def token_relevance(
    stream: DecisionStream, labels: Int[Tensor, " b"], blocks: Sequence[int], graph: bool = True
) -> list[Float[Tensor, "b n n"]]:
    """Return R of some blocks: in row i and column j, what query i takes from key j.

    Args:
        stream: of a forward pass.
        labels: class of each image.
        blocks: their numbers.
        graph: whether R is going to be differentiated.
    """
    weights = [stream.weights[block] for block in blocks]
    score = _score(stream, labels)
    gradients = torch.autograd.grad(score, weights, create_graph=graph, retain_graph=True)
    return [
        (_precise(slope).relu() * _precise(weight)).mean(1)
        for slope, weight in zip(gradients, weights, strict=True)
    ]


def received(relevance: Float[Tensor, "b n n"], grid: Grid) -> Float[Tensor, "b p"]:
    """Return what all queries together take from each patch; [CLS] and registers left out."""
    return _of_patches(relevance.sum(1), grid)


def foreground(
    relevance: Sequence[Float[Tensor, "b n n"]], grid: Grid, threshold: float
) -> Bool[Tensor, "b p"]:
    """Return which patches the decision of [CLS] rests on, from R of all blocks.

    The row of [CLS] in (I + R^L) ... (I + R^1) tells how much of each patch arrives; scaled to
    [0, 1] in each image, a patch is foreground from the threshold on. Where all are alike, nothing
    is known and all are foreground.

    Args:
        relevance: of every block, from the first to the last.
        grid: rows and columns of patches.
        threshold: in [0, 1].
    """
    row = torch.zeros_like(relevance[0][:, :1])
    row[:, :, 0] = 1
    for each in reversed(relevance):
        row = row + row @ each
    arriving = _of_patches(row[:, 0], grid)
    low, high = arriving.aminmax(dim=1, keepdim=True)
    return (arriving - low >= threshold * (high - low)) | (high == low)


def masked_foreground(masks: Bool[Tensor, "b height width"], patch: int) -> Bool[Tensor, "b p"]:
    """Return which patches hold at least one pixel of the foreground.

    Args:
        masks: true for foreground; height and width multiples of the patch.
        patch: pixels of its edge.
    """
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


def dimension_relevance(
    stream: DecisionStream, labels: Int[Tensor, " b"], feature: Feature, graph: bool = True
) -> Float[Tensor, "b m"]:
    """Return c, how much each dimension of [CLS] speaks for the class; never negative.

    Args:
        stream: of a forward pass.
        labels: class of each image.
        feature: "hidden", that of [CLS] inside the last block's MLP, four times the width;
            "cls", what the head reads.
        graph: whether c is going to be differentiated.
    """
    source = stream.hidden[-1] if feature == "hidden" else stream.head[0].given
    score = _score(stream, labels)
    (slope,) = torch.autograd.grad(score, source, create_graph=graph, retain_graph=True)
    found = _precise(slope).relu() * _precise(source).relu()
    return split_at(found, 1)[0][:, 0] if feature == "hidden" else found


def _score(stream: DecisionStream, labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Return the sum of the images' y, whose gradient is that of each image by itself."""
    return stream.logits.gather(1, labels[:, None]).sum()


def _of_patches(x: Float[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b p"]:
    return split_at(x[..., None], prefix_length(x.shape[1], grid))[1][..., 0]


def _precise(x: Tensor) -> Tensor:
    """Return x in at least single precision, whatever autocast made of it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
