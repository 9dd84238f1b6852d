"""CAPI's dense protocols (arXiv:2502.08769, code facebookresearch/capi): neighbors and logistic.

Axis letters: s patches, d width, l pixels of a patch, or 1 for one label of all of them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from vitlab import distributed
from vitlab.data import VisionDataModule
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.features import TableProtocol, first_of_all
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Outcome
from vitlab.probes.features import StandardScaler
from vitlab.probes.knn import majority
from vitlab.probes.logistic import Convergence, LogisticRegression
from vitlab.probes.metrics import IoUAccumulator, IoUCounts
from vitlab.probes.neighbors import Metric, NeighborSearch
from vitlab.probes.patch_dataset import PatchDataset, unpatchify
from vitlab.progress import track

Labels = Integer[Tensor, "s l"]
Fit = Convergence | None  # how what is learned was fitted, if it was
Scored = tuple[IoUCounts, list[Tensor], Fit]  # counts, and predictions of the first images


@dataclass(frozen=True, kw_only=True)
class ResizedProtocol(TableProtocol):
    """Whole images squeezed into squares; what is chosen is chosen on held out training images.

    1. Features are standardized by the training images that are not held out.
    2. Patches whose most frequent label is void are not learned from.
    3. Every setting is learned without the held out images and scored on them; the first of the
       best is learned again with them.
    4. Scores are of all pixels of the square, whose masks are resized by the nearest pixel. As
       scikit-learn's macro average, which CAPI reports, the mean has void as one more class, of IoU
       0, as soon as one pixel is predicted void; "miou/without void" has the classes only.

    Args:
        holdout_fraction: share of the training images that decides.
    """

    task = "segmentation"
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a share that leaves nothing."""
        if not 0 < self.holdout_fraction < 1:
            raise InputError(
                f"holdout_fraction {self.holdout_fraction} must be between 0 and 1",
                field="protocol.holdout_fraction",
            )

    @property
    @abstractmethod
    def settings(self) -> list[tuple[str, Any]]:
        """Name and value of what is tried, in the order that decides between equal ones."""

    @abstractmethod
    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[Any],
        classes: int,
        context: EvaluationContext,
    ) -> list[tuple[Labels, Fit]]:
        """Learn from labeled patches, and label others by each of some settings.

        Args:
            patches: to learn from.
            x: standardized features to be labeled.
            settings: values of `settings`.
            classes: number of classes; void is one more.
            context: where, and how much memory.
        """

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
        super().check(encoder, data)
        images = len(data.samples(data.train_split))
        if images < 2 and len(self.settings) > 1:
            raise InputError(
                f"{images} training image cannot be divided into ones to learn from and ones to "
                "choose by; give 2 or more, or one setting only",
                field="data.train_split",
            )

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Choose on the held out images, learn from all, score the test images."""
        x, masks = self.table(encoder, data, data.train_split, context)
        test = self.table(encoder, data, data.val_split, context)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(context.seed))
        several = len(self.settings) > 1
        count = max(1, int(len(order) * self.holdout_fraction)) if several else 0
        held, rest = order[:count].sort().values, order[count:].sort().values
        standard = StandardScaler.fit(x, rest, context.memory)
        dataset = partial(PatchDataset, x, masks, standard=standard, classes=data.num_classes)
        score = partial(self._score, data=data, context=context)
        names, settings = zip(*self.settings, strict=True)
        best, tried, fits = 0, {}, {}
        if several:
            found = score(dataset(images=rest), x[held], masks[held], settings)
            values = [counts.value for counts, _, _ in found]
            best, tried = values.index(max(values)), dict(zip(names, values, strict=True))
            fits = {f"{name}, held out": fit for name, (*_, fit) in zip(names, found, strict=True)}
        learned = dataset(images=torch.arange(len(x)))
        ((counts, maps, fit),) = score(learned, *test, settings[best : best + 1])
        fits[names[best]] = fit
        accuracy = 100 * float(counts.both.sum() / counts.truth.sum())
        known = IoUCounts(*(each[:, :-1] for each in counts.tensors().values()))
        return Outcome(
            headline="miou",
            scores={"miou": counts.value, "miou/without void": known.value, "accuracy": accuracy},
            counts=counts,
            tried=tried,
            chosen=names[best] if several else "",
            chosen_on="held out" if several else "",
            predictions=maps,
            fits={name: each for name, each in fits.items() if each is not None},
        )

    def _score(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "n p d"],
        masks: UInt8[Tensor, "n size size"],
        settings: Sequence[Any],
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> list[Scored]:
        """Score each setting on some images."""
        mine = slice(distributed.rank(), None, distributed.world_size())
        rows = patches.standard(x[mine].flatten(0, 1)).to(context.device)
        classes, scored, grid = data.num_classes, [], (round(x.shape[1] ** 0.5),) * 2
        for labels, fit in self.label(patches, rows, settings, classes, context):
            accumulator = IoUAccumulator(classes + 1, context.device)  # the last is void
            parts = [each for each in labels.split(x.shape[1]) if len(each)]
            maps = [unpatchify(each, grid, self.size) for each in parts]
            for predicted, mask in zip(maps, masks[mine], strict=True):
                accumulator.update(predicted.long(), mask)
            void = [each.masked_fill(each == classes, IGNORE_INDEX) for each in maps[:PICTURES]]
            shown = first_of_all(void, self.size, context)
            scored.append((accumulator.overlaps(), shown, fit))
        return scored


@dataclass(frozen=True)
class DenseKNN(ResizedProtocol):
    """Each pixel of a patch gets the label most frequent there among the nearest training patches.

    As in the released code, labels travel pixel by pixel: of k neighbors, the pixels at the same
    place in the patch vote, void among them. Of equally frequent labels the smallest wins, void
    last.

    Args:
        ks: counts of neighbors to try, rising.
        metrics: distances to try.
        transfer: "pixels" as described; "patches" gives each patch the most frequent label of its
            neighbors, each of which has one.
    """

    ks: tuple[int, ...] = (1, 3, 10, 30)
    metrics: tuple[Metric, ...] = ("cosine", "l2")
    transfer: Literal["pixels", "patches"] = "pixels"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        ks = self.ks
        if not ks or sorted({*ks}) != [*ks] or not 0 < ks[0] <= ks[-1] < 2**15 or not self.metrics:
            raise InputError(
                f"ks {ks} must be rising counts of neighbors, with one metric or more",
                field="protocol.ks",
            )

    @property
    def settings(self) -> list[tuple[str, tuple[int, Metric]]]:
        """Every k with every metric."""
        return [(f"k {k}, {metric}", (k, metric)) for k, metric in product(self.ks, self.metrics)]

    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[tuple[int, Metric]],
        classes: int,
        context: EvaluationContext,
    ) -> list[tuple[Labels, Fit]]:
        """Find the neighbors by each metric once, and let them vote for each k."""
        half = context.memory // 2
        ks: dict[Metric, list[int]] = {}
        for k, metric in sorted(settings):
            ks.setdefault(metric, []).append(k)
        searches = {
            metric: NeighborSearch(x, each[-1], metric, half) for metric, each in ks.items()
        }
        blocks = patches.blocks(half, context.device)
        for keys, _ in track(blocks, "neighbors", total=patches.count(half)):
            for search in searches.values():
                search.add(keys)
        labels = patches.pixels if self.transfer == "pixels" else patches.labels[:, None]
        found: dict[tuple[int, Metric], Tensor] = {}
        for metric, search in searches.items():
            most, tried = ks[metric][-1], tuple(ks[metric])
            # counts of each class, 2 bytes; neighbors' labels as bytes and as indices; labels found
            one = labels.shape[1] * (2 * (classes + 1) + 12 * most + 9 * len(tried)) + 8 * most
            if one > context.memory:
                raise InputError(
                    f"memory of {context.memory} bytes does not hold the votes of one patch; allow "
                    f"{one} bytes or more",
                    field="--memory",
                )
            parts = []
            for index in search.neighbors().index.split(context.memory // one):
                near = labels[index.to(labels.device)].to(context.device)
                parts.append([each.byte().cpu() for each in majority(near, classes + 1, tried)])
            for k, *votes in zip(tried, *parts, strict=True):
                found[k, metric] = torch.cat(votes)
        return [(found[each], None) for each in settings]


@dataclass(frozen=True)
class DenseLogistic(ResizedProtocol):
    """Multinomial logistic regression of patches by their most frequent label, for several C.

    C weighs the sum of cross-entropies against |W|^2 / 2, as in scikit-learn and cuML. A patch's
    label is that of all its pixels.

    Args:
        log10_c_min: decimal logarithm of the smallest C.
        log10_c_max: decimal logarithm of the largest C.
        num_c: how many C, evenly spaced by their logarithm.
        max_iter: of L-BFGS at most; the result names fits that end there.
        history_size: steps that L-BFGS remembers.
    """

    log10_c_min: float = -6.0
    log10_c_max: float = 5.0
    num_c: int = 8
    max_iter: int = 1000
    history_size: int = 5

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if min(self.num_c, self.max_iter, self.history_size) < 1 or (
            self.log10_c_min > self.log10_c_max
        ):
            raise InputError(
                f"num_c {self.num_c}, max_iter {self.max_iter} and history_size "
                f"{self.history_size} must be 1 or more, and log10_c_min {self.log10_c_min} not "
                f"above log10_c_max {self.log10_c_max}",
                field="protocol.log10_c_min",
            )

    @property
    def settings(self) -> list[tuple[str, float]]:
        """Every C."""
        low, high = self.log10_c_min, self.log10_c_max
        logs = torch.linspace(low, high, self.num_c, dtype=torch.float64)
        return [(f"C {c:.3g}", c) for c in (float(10**log) for log in logs)]

    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[float],
        classes: int,
        context: EvaluationContext,
    ) -> list[tuple[Labels, Fit]]:
        """Fit each C, one after the other."""
        kept: list[tuple[Tensor, Tensor]] = []
        if 4 * len(patches) * patches.x.shape[2] <= context.memory:
            kept = list(patches.blocks(context.memory // 4, context.device))

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            """Rows of patches; where memory has no room, standardized again in each pass."""
            return iter(kept) if kept else patches.blocks(context.memory, context.device)

        found: list[tuple[Labels, Fit]] = []
        for c in track(settings, "logistic regression"):
            decay = 1 / (c * len(patches))
            fitted = LogisticRegression.fit(
                blocks, classes, decay, self.max_iter, self.history_size
            )
            rows = max(1, context.memory // (8 * classes))
            labels = [fitted(part).argmax(1).to(torch.uint8).cpu() for part in x.split(rows)]
            found.append((torch.cat(labels)[:, None], fitted.convergence))
        return found
