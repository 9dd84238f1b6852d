"""Protocols whose heads are trained side by side on frozen features: training, choice, outcome."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from vitlab import distributed
from vitlab.data import Loader, SegmentationTransform, SingleCrop, VisionDataModule
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import digest, key_of
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes.features import FinitenessMonitor
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.layer_selection import FeatureSpec, ImageFeatureSpec
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, HeadSpec
from vitlab.probes.metrics import PerImageCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe
from vitlab.progress import track

HeadLogits = Callable[[Mapping[str, Tensor]], Tensor]  # of one head, from its features


@dataclass(frozen=True, kw_only=True)
class TrainedHeads(Protocol):
    """Every combination of features and learning rate is a head; all share the encoder's passes.

    Args:
        recipe: how heads are trained, and which one makes the headline.
        head: what a head is made of.
        precision: of the encoder; heads compute in fp32.

    Attributes:
        score: name of the score of a head.
        chunk: training images of one forward pass at most.
    """

    score: ClassVar[str]
    chunk: ClassVar[int]
    features: FeatureSpec | ImageFeatureSpec
    transform: SegmentationTransform | SingleCrop
    recipe: TrainingRecipe
    head: HeadConfig = HeadConfig()  # noqa: RUF009, frozen
    precision: Precision = "fp32"
    max_val_images = 0  # the first so many; 0 for all

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse too few images to hold some out."""
        self.recipe.holdout_split(len(data.samples(self.train_split or data.train_split)))

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Train all heads, choose one as the recipe says, and test all of them."""
        return HeadRun(self, encoder, data, context).outcome()

    @abstractmethod
    def train_dataset(self, data: VisionDataModule, seed: int) -> Dataset:
        """Return augmented training images with their labels or masks."""

    @abstractmethod
    def test_dataset(self, data: VisionDataModule, split: str) -> Dataset:
        """Return the images of a split as heads are tested on them."""

    @abstractmethod
    def collate(self, examples: list) -> tuple[Tensor, Tensor]:
        """Collate training images and their labels or masks, as they are learned."""

    @abstractmethod
    def loss(self, targets: Tensor, grid: tuple[int, int]) -> Callable[[Tensor], None]:
        """Return the gradient of a batch's loss, see `HeadBatch`."""

    @abstractmethod
    def count(
        self, run: "HeadRun", logits: Mapping[str, HeadLogits], images: Dataset
    ) -> Mapping[str, PerImageCounts]:
        """Count the predictions of all heads on the same passes of the encoder."""

    def predictions(self, run: "HeadRun", logits: HeadLogits, images: Dataset) -> list[Tensor]:
        """Return predictions of one head for the first images, for pictures."""
        return []


@dataclass(frozen=True)
class HeadRun:
    """One evaluation of trained heads; see `Protocol.run` for the attributes."""

    protocol: TrainedHeads
    encoder: Encoder
    data: VisionDataModule
    context: EvaluationContext

    def outcome(self) -> Outcome:
        """Train all heads, from where an interrupted run has left them, and test them."""
        protocol, data = self.protocol, self.data
        reported = protocol.test_dataset(data, data.val_split)
        if protocol.max_val_images:
            count = min(protocol.max_val_images, len(data.samples(data.val_split)))
            reported = Subset(reported, range(count))
        training = self._train(reported)
        found = self._test(training.heads, reported)
        select = protocol.recipe.select
        head = training.heads.names[0] if select == "last" else training.chosen
        counts = found[head]
        if counts is None:
            raise InputError(
                f"the head of the headline ({head}) has diverged: its logits are not finite; give "
                "smaller learning rates as protocol.recipe.lrs",
                field="protocol.recipe.lrs",
            )
        scores = _values(found)
        tried = scores if select == "last" else training.tried
        chosen = head if select == "last" else training.label(head)
        several, name = len(tried) > 1, protocol.score
        return Outcome(
            headline=name,
            scores={name: scores[head], **{f"{name}/{key}": scores[key] for key in scores}},
            counts=counts,
            tried=tried,
            chosen=chosen if several else "",
            chosen_on=select if several and select != "last" else "",
            predictions=protocol.predictions(self, partial(training.heads.logits, head), reported),
            train=protocol.train_split,
        )

    @property
    def key(self) -> str:
        """SHA-256 over all that trained heads and their choice come from."""
        protocol, data = self.protocol, self.data
        size: int = protocol.transform.size  # type: ignore[union-attr]
        train = protocol.train_split or data.train_split
        of_features = key_of(self.encoder, size, data, train, data.val_split)
        settings = json.dumps(protocol, sort_keys=True, default=_public)
        return digest({**of_features, "settings": settings, "seed": self.context.seed})

    def _train(self, reported: Dataset) -> HeadTraining:
        """Train all heads; where the recipe selects, each is returned at its best."""
        protocol, recipe, data, context = (
            self.protocol,
            self.protocol.recipe,
            self.data,
            self.context,
        )
        train = protocol.train_split or data.train_split
        kept, held = recipe.holdout_split(len(data.samples(train)))
        widths = protocol.features.widths(self.encoder)
        specs = [HeadSpec(name, widths[name], lr) for name in widths for lr in recipe.lrs]
        heads = HeadGrid(
            specs, data.num_classes, protocol.head, recipe, context.seed, context.device
        )
        training = HeadTraining(heads, len(kept), context.folder, self.key)
        ranks = distributed.rank(), distributed.world_size()
        places = StepSampler(kept, recipe, context.seed, protocol.chunk, *ranks)
        places.start = training.step
        deciding = reported
        if recipe.select == "held out":
            deciding = Subset(protocol.test_dataset(data, train), held.tolist())
        selects = recipe.select != "last"
        evaluate = (lambda: _values(self._test(heads, deciding))) if selects else None
        training.run(self._batches(places), evaluate)
        training.keep_best()
        return training

    def _batches(self, places: StepSampler) -> Iterator[HeadBatch]:
        """Yield the features of each step from its place on, and the gradient of its loss."""
        protocol, context = self.protocol, self.context
        labeled = protocol.task == "classification"
        loader = Loader(
            protocol.train_dataset(self.data, context.seed),
            batch_sampler=places,
            num_workers=context.loading.num_workers,
            collate_fn=protocol.collate,
            pin_memory=torch.cuda.is_available(),
        )
        for images, labels in track(loader, "training heads", total=len(places)):
            maps = [
                protocol.features.read(self.encoder, chunk, context.loading)
                for chunk in images.split(places.chunk)
            ]
            features = {
                name: places.gather(torch.cat([each.features[name] for each in maps]))
                for name in maps[0].features
            }
            targets = places.gather(labels.to(context.device))
            # once true, nobody waits for the device
            labeled = labeled or bool((targets != IGNORE_INDEX).any())
            yield HeadBatch(features, protocol.loss(targets, maps[0].grid), labeled)

    def _test(self, heads: HeadGrid, images: Dataset) -> dict[str, PerImageCounts | None]:
        """Test all heads; None for one that has diverged, whose predictions mean nothing."""
        monitors = {name: FinitenessMonitor(self.context.device) for name in heads.names}

        def logits(name: str, features: Mapping[str, Tensor]) -> Tensor:
            return monitors[name].observe(heads.logits(name, features))

        every = {name: partial(logits, name) for name in heads.names}
        counts = self.protocol.count(self, every, images)
        finite = {name: monitors[name].finite() for name in heads.names}  # on all ranks
        return {name: counts[name] if finite[name] else None for name in heads.names}


def _values(found: Mapping[str, PerImageCounts | None]) -> dict[str, float]:
    """Return scores in percent; NaN for a head that has diverged."""
    return {name: math.nan if each is None else each.value for name, each in found.items()}


def _public(value: object) -> list[Any]:
    """Return class and public attributes, whose text has no address in memory."""
    public = {name: each for name, each in vars(value).items() if not name.startswith("_")}
    return [type(value).__name__, public]
