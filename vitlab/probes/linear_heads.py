"""Linear heads on frozen features, trained side by side on one pass of the encoder.

Each depends on its name, settings and seed only: a head is the same to the bit in any grid. On
several ranks, each trains all heads on the whole batch, so BatchNorm covers all of it and no
gradients are reduced.

Axis letters: b images, p patches, d width, c classes.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from vitlab.data.transforms import IGNORE_INDEX
from vitlab.errors import InputError
from vitlab.optim.schedules import Progress
from vitlab.probes.recipe import TrainingRecipe

PIECE = 4  # images whose logits are upsampled at a time
Logits = Float[Tensor, "b p c"]


@dataclass(frozen=True)
class HeadConfig:
    """Layers of a head: [dropout], [BatchNorm], and one linear layer on each patch.

    Args:
        norm: whether features pass a BatchNorm over the whole batch.
        dropout: probability that a channel of an image is left out (Dropout2d).
        hidden_dim: width of a first layer with GroupNorm of one group and GELU, as LocAtViT's
            (`evaluations/segmentation/linear_seg.py`); 0 for none.
        init_std: deviation of the linear layer's normal initialization, with bias 0; 0 for torch's
            own initialization of a convolution.
    """

    norm: bool = True
    dropout: float = 0.0
    hidden_dim: int = 0
    init_std: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1 or self.hidden_dim < 0 or self.init_std < 0:
            raise InputError(
                f"dropout {self.dropout} must be in [0, 1), hidden_dim {self.hidden_dim} and "
                f"init_std {self.init_std} 0 or more",
                field="protocol.layers",
            )


class Head(nn.Module):
    """One head, from features of a width to logits; `generator` is that of the initialization."""

    def __init__(self, width: int, classes: int, layers: HeadConfig, generator: torch.Generator):
        super().__init__()
        self.dropout = layers.dropout
        self.norm = nn.BatchNorm1d(width) if layers.norm else None
        self.hidden, self.group = None, None
        if layers.hidden_dim:
            # mmcv's ConvModule: no bias in front of a norm, He initialization by the outgoing width
            self.hidden = nn.utils.skip_init(nn.Linear, width, layers.hidden_dim, bias=False)
            std = math.sqrt(2 / layers.hidden_dim)
            nn.init.normal_(self.hidden.weight, std=std, generator=generator)
            self.group = nn.GroupNorm(1, layers.hidden_dim)
        entering = layers.hidden_dim or width
        self.classify = nn.utils.skip_init(nn.Linear, entering, classes)
        if layers.init_std:
            nn.init.normal_(self.classify.weight, std=layers.init_std, generator=generator)
            nn.init.zeros_(self.classify.bias)
        else:
            for parameter in (self.classify.weight, self.classify.bias):
                nn.init.uniform_(parameter, -(entering**-0.5), entering**-0.5, generator=generator)

    def forward(
        self, x: Float[Tensor, "b p d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b p c"]:
        """Return logits; `generator` is that of the dropout, on the CPU, in training only."""
        if self.training and self.dropout:
            keep = 1 - self.dropout
            kept = torch.bernoulli(torch.full((len(x), 1, x.shape[2]), keep), generator=generator)
            x = x * kept.to(x.device) / keep
        if self.norm is not None:
            x = self.norm(x.flatten(0, 1)).view_as(x)
        if self.hidden is not None and self.group is not None:
            # statistics over all channels and patches of an image, not of each patch
            x = F.gelu(self.group(self.hidden(x).transpose(1, 2))).transpose(1, 2)
        return self.classify(x)


@dataclass(frozen=True)
class HeadSpec:
    """Features of a head by name, with their width, and its peak learning rate as in the recipe."""

    source: str
    width: int
    lr: float

    @property
    def name(self) -> str:
        """Name in results; it also seeds the head, so it must not change."""
        return f"{self.source}, rate {self.lr:g}"


class HeadGrid:
    """Heads for every combination of features and learning rate, and their optimizer.

    Args:
        planned: features and learning rate of each head.
        classes: number of classes.
        layers: of each head.
        recipe: optimizer and schedule.
        seed: of initialization and dropout.
        device: of the heads.
    """

    def __init__(
        self,
        planned: Sequence[HeadSpec],
        classes: int,
        layers: HeadConfig,
        recipe: TrainingRecipe,
        seed: int,
        device: torch.device,
    ):
        self.planned, self.recipe, self.seed = list(planned), recipe, seed
        self.names = [head.name for head in planned]
        self.modules = {
            head.name: Head(head.width, classes, layers, self._generator(head.name)).to(device)
            for head in planned
        }
        groups = []
        for lr in recipe.lrs:
            modules = [self.modules[head.name] for head in planned if head.lr == lr]
            parameters = [parameter for module in modules for parameter in module.parameters()]
            peak = recipe.peak_lr(lr)
            groups.append({"params": parameters, "lr": peak, "peak": peak})
        self.optimizer: torch.optim.Optimizer
        decay = recipe.weight_decay
        if recipe.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, weight_decay=decay)
        else:
            self.optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=decay)

    def step(
        self,
        features: Mapping[str, Float[Tensor, "b p _"]],
        backward: Callable[[Logits], None],
        progress: Progress,
    ) -> None:
        """Train every head on a batch, see `HeadBatch`, after the steps of `progress`."""
        factor = self.recipe.lr_schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with torch.enable_grad():
            for head in self.planned:  # one after the other, so that memory is that of one
                module = self.modules[head.name].train()
                backward(module(features[head.source], self._generator(head.name, progress.step)))
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def logits(self, name: str, features: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of one head, in evaluation mode."""
        source = self.planned[self.names.index(name)].source
        return self.modules[name].eval()(features[source])

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return a copy of one head's weights, on the CPU."""
        state = self.modules[name].state_dict()
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizer state."""
        weights = {name: self.weights(name) for name in self.names}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore weights and optimizer state."""
        for name in self.names:
            self.modules[name].load_state_dict(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])

    def _generator(self, *key: object) -> torch.Generator:
        """Return the random generator of a head, independent of other heads."""
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def image_loss(labels: Int[Tensor, " b"]) -> Callable[[Logits], None]:
    """Return the backward pass of cross-entropy on images, whose logits have one patch."""
    return lambda logits: F.cross_entropy(logits[:, 0], labels).backward()


def pixel_loss(
    masks: UInt8[Tensor, "b height width"], grid: tuple[int, int], avg_non_ignore: bool = True
) -> Callable[[Logits], None]:
    """Return the backward pass of cross-entropy on pixels: the mean over those with a label.

    Logits are upsampled bilinearly to the masks, a few images at a time. A batch without any label
    has gradient 0.

    Args:
        masks: class of each pixel, 255 for none.
        grid: rows and columns of patches.
        avg_non_ignore: False divides the sum over pixels with a label by the number of all pixels.
    """
    known = masks != IGNORE_INDEX
    count = known.sum().clamp_min(1) if avg_non_ignore else known.numel()
    share = (known / count)[:, None]  # of each pixel in the mean
    truth = masks.masked_fill(~known, 0).long()[:, None]

    def gradient(part: Logits, at: slice) -> Logits:
        """Softmax minus truth, summed back onto patches: no pass over pixels is made twice."""
        down, across = interpolation(grid, masks.shape[-2:], part)
        error = (down.T @ (part.transpose(1, 2).unflatten(2, grid) @ across)).softmax(1)
        error.scatter_add_(1, truth[at], error.new_full((), -1.0).expand(truth[at].shape))
        error.mul_(share[at])
        return (down @ (error @ across.T)).flatten(2).transpose(1, 2)

    def backward(logits: Logits) -> None:
        with torch.no_grad():
            pieces = [slice(at, at + PIECE) for at in range(0, len(logits), PIECE)]
            found = torch.cat([gradient(logits[piece], piece) for piece in pieces])
        logits.backward(found)

    return backward


def interpolation(
    grid: Sequence[int], size: Sequence[int], like: Tensor
) -> tuple[Float[Tensor, "rows height"], Float[Tensor, "columns width"]]:
    """Return bilinear interpolation (align_corners false) as two matrices, of rows and of columns.

    The gradient of `F.interpolate` is not deterministic on a GPU: runs and ranks would differ.
    """
    down, across = (
        F.interpolate(torch.eye(old, device=like.device)[None], new, mode="linear")[0]
        for old, new in zip(grid, size, strict=True)
    )
    return down, across
