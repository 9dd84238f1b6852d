"""Frozen image features, their standardization, and the interface of probes: fit, predict, score.

Axis letters: s rows, n images, p patches, m chosen images, d width, c classes.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from vitlab import distributed
from vitlab.data import Loader, normalize
from vitlab.encoders import Encoder, Tokens
from vitlab.errors import InputError, is_own, trying
from vitlab.progress import track
from vitlab.rng import seeded_rng

TRY_ROWS = 64  # of features, at least, on which a probe is tried

Images = Float[Tensor, "b 3 height width"] | UInt8[Tensor, "b 3 height width"]


@dataclass(frozen=True)
class Features:
    """A table of frozen image features.

    Attributes:
        x: one row for each image.
        y: its class index.
    """

    x: Float[Tensor, "s d"]
    y: Int[Tensor, " s"]


class Probe(ABC):
    """A classifier of frozen image features; the same on any number of ranks."""

    @abstractmethod
    def fit(self, train: Features, num_classes: int) -> "Probe":
        """Learn from labeled features."""

    @abstractmethod
    def predict(self, x: Float[Tensor, "s d"]) -> Int[Tensor, " s"]:
        """Return the class of each row."""

    @abstractmethod
    def score(self, test: Features) -> dict[str, float]:
        """Return scores in percent, by name."""

    def fit_score(self, train: Features, test: Features) -> dict[str, float]:
        """Fit on one table and score on another, with the classes of both."""
        num_classes = int(max(train.y.max(), test.y.max())) + 1
        return self.fit(train, num_classes).score(test)


def check_probe(probe: Probe, width: int, num_classes: int, field: str) -> None:
    """Try a copy of a probe of the user's own on random features, before a run begins.

    Args:
        probe: any.
        width: of the encoder.
        num_classes: of the data.
        field: option that names it.

    Raises:
        InputError: a method fails, or returns something else than `Probe` says.
    """
    if not is_own(probe):
        return
    kind, rows = type(probe).__qualname__, max(TRY_ROWS, 2 * num_classes)
    with torch.random.fork_rng(devices=[]), seeded_rng(0):
        table = Features(torch.randn(rows, width), torch.arange(rows) % num_classes)
        twin = copy.deepcopy(probe)
        what = f"tried on {rows} random features of width {width},"
        with trying(probe, f".fit, {what}", field):
            fitted: Any = twin.fit(table, num_classes)
        if not isinstance(fitted, Probe):
            given = type(fitted).__name__
            raise InputError(f"{kind}.fit returned {given}; return self", field=field)
        with trying(probe, f".predict, {what}", field):
            found: Any = fitted.predict(table.x)
        with trying(probe, f".score, {what}", field):
            scores: Any = fitted.score(table)
    if not isinstance(found, Tensor) or found.shape != (rows,) or found.is_floating_point():
        given = type(found).__name__
        if isinstance(found, Tensor):
            given = f"{str(found.dtype)[6:]} {tuple(found.shape)} for {rows} rows"
        raise InputError(
            f"{kind}.predict returned {given}; return an integer tensor, the class of each row",
            field=field,
        )
    try:
        good = bool(scores) and all(isinstance(name, str) for name in scores)
        good = good and all(float(value) is not None for value in scores.values())
    except (TypeError, ValueError, AttributeError, RuntimeError):
        good = False
    if not good:
        raise InputError(
            f"{kind}.score returned {shorten(repr(scores), 100)}; return numbers by name, such as "
            '{"top1": 71.5}',
            field=field,
        )


@dataclass(frozen=True)
class InferenceConfig:
    """Device, batches and precision of forward passes.

    Attributes:
        device: of the encoder.
        batch_size: images of one forward pass.
        num_workers: processes that decode.
        precision: makes the context of a forward pass, such as autocast; probes themselves compute
            in fp32.
    """

    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    precision: Callable[[], AbstractContextManager] = nullcontext

    def encode(self, encoder: Encoder, images: Images) -> Tokens:
        """Return the features of images on any device; 8-bit ones are normalized first."""
        images = images.to(self.device)
        with self.precision():
            return encoder(normalize(images) if images.dtype == torch.uint8 else images)


def image_features(encoder: Encoder, images: Dataset, config: InferenceConfig) -> Features:
    """Return the [CLS] feature of every image, in order, the whole table on each rank.

    Args:
        encoder: in evaluation mode.
        images: pairs of a (3, height, width) image and a class index.
        config: device, batch size and workers.
    """
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, label in track(sharded_loader(images, config), "image features"):
        rows.append(config.encode(encoder, pixels).cls.float())
        labels.append(label)
    x = distributed.all_gather_rows(torch.cat(rows))
    return Features(x, distributed.all_gather_rows(torch.cat(labels).to(config.device)))


def sharded_loader(
    images: Dataset, config: InferenceConfig, collate: Callable | None = None
) -> Loader:
    """Return a loader of this rank's images: every world_size-th, so that none is read twice."""
    shard = range(distributed.rank(), len(images), distributed.world_size())  # type: ignore[arg-type]
    images = Subset(images, shard)
    return Loader(images, config.batch_size, num_workers=config.num_workers, collate_fn=collate)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients; random generators and mode are restored afterwards."""
    training = model.training
    model.eval()
    first = next(model.parameters(), None)
    devices = [first.device] if first is not None and first.is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        model.train(training)


def check_finite(*features: Tensor) -> None:
    """Refuse features with NaN or infinity, by one pass, without a copy.

    Raises:
        InputError: there is one.
    """
    # in fp64, where a sum of fp32 has no overflow
    if not torch.stack([x.sum(dtype=torch.float64) for x in features]).sum().isfinite():
        raise InputError(
            "features are not finite: the weights are damaged, the encoder has diverged, or its "
            "precision does not hold its values; use a healthy checkpoint, or fp32",
            field="features",
        )


class FinitenessMonitor:
    """Whether all observed tensors were finite, without waiting for their device."""

    def __init__(self, device: torch.device):
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def observe(self, x: Tensor) -> Tensor:
        """Return x unchanged."""
        self._total = self._total + x.sum(dtype=torch.float64)
        return x

    def finite(self) -> bool:
        """Whether all were, on all ranks; to be called on each of them."""
        return bool(distributed.all_reduce_mean(self._total).isfinite())


@dataclass(frozen=True)
class StandardScaler:
    """(x - mean) / std of each feature, where std is not 0."""

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]

    @classmethod
    def fit(
        cls, x: Float[Tensor, "n p d"], images: Int[Tensor, " m"], memory: int
    ) -> "StandardScaler":
        """Measure the patches of some images in fp64, as scikit-learn's StandardScaler.

        The deviation is that of the population; 1 where a feature is constant.

        Args:
            x: patches of all images.
            images: indices of those that are measured.
            memory: bytes that a block of them may take.

        Raises:
            InputError: features that are not finite.
        """
        count = len(images) * x.shape[1]
        mean = torch.zeros(x.shape[2], dtype=torch.float64)
        blocks = images.split(max(1, images_per_block(x, memory) // 2))  # in fp64
        for block in blocks:
            mean += x[block].double().sum((0, 1)) / count
        check_finite(mean)
        variance = torch.zeros_like(mean)
        for block in blocks:
            variance += (x[block].double() - mean).square().sum((0, 1)) / count
        # rounding of fp32 features that are all alike
        constant = variance <= (1e-7 * mean).square()
        std = torch.where(constant, 1.0, variance.sqrt())
        return cls(mean.float(), std.float())

    def transform(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return standardized rows."""
        return (x - self.mean.to(x.device)) / self.std.to(x.device)

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return standardized rows; features that are not finite are refused."""
        check_finite(x)
        return self.transform(x)


def images_per_block(x: Float[Tensor, "n p d"], memory: int) -> int:
    """Return how many images a block may have: their rows, a part of these, and a copy."""
    return max(1, memory // (3 * 4 * x.shape[1] * x.shape[2]))
