"""Protocols whose heads are trained side by side on frozen features: training, choice, outcome."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vitlab import distributed
from vitlab.data import SegmentationTransform, SingleCrop, VisionDataModule
from vitlab.data.loader import init_worker
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import digest, key_of
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.layer_selection import FeatureSpec, ImageFeatureSpec
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, HeadSpec
from vitlab.probes.metrics import PerImageCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe


class HeadScore(NamedTuple):
    """The predictions of a head on test images.

    Attributes:
        counts: of each image.
        finite: whether all logits were; otherwise predictions mean nothing.
    """

    counts: PerImageCounts
    finite: bool

    @property
    def value(self) -> float:
        """The score in percent; NaN for a head that has diverged."""
        return self.counts.value if self.finite else math.nan


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
    def test(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> Mapping[str, HeadScore]:
        """Test all heads on the same passes of the encoder."""

    def predictions(
        self,
        encoder: Encoder,
        heads: HeadGrid,
        name: str,
        images: Dataset,
        context: EvaluationContext,
    ) -> list[Tensor]:
        """Return predictions of one head for the first images, for pictures."""
        return []

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Train all heads, choose one as the recipe says, and test all of them."""
        reported = self.test_dataset(data, data.val_split)
        if self.max_val_images:
            count = min(self.max_val_images, len(data.samples(data.val_split)))
            reported = Subset(reported, range(count))
        training = self.fit(encoder, data, reported, context)
        found = self.test(encoder, training.heads, reported, context)
        select = self.recipe.select
        last = select == "last"
        head = training.heads.names[0] if last else training.chosen
        if not found[head].finite:
            raise InputError(
                f"the head of the headline ({head}) has diverged: its logits are not finite; give "
                "smaller learning rates as protocol.recipe.lrs",
                field="protocol.recipe.lrs",
            )
        scores = {name: each.value for name, each in found.items()}
        tried = scores if last else training.tried
        chosen = head if last else training.label(head)
        several = len(tried) > 1
        return Outcome(
            headline=self.score,
            scores={
                self.score: scores[head],
                **{f"{self.score}/{name}": value for name, value in scores.items()},
            },
            counts=found[head].counts,
            tried=tried,
            chosen=chosen if several else "",
            chosen_on=select if several and select != "last" else "",
            predictions=self.predictions(encoder, training.heads, head, reported, context),
            train=self.train_split,
        )

    def fit(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        reported: Dataset,
        context: EvaluationContext,
    ) -> HeadTraining:
        """Train all heads, from where an interrupted run has left them.

        Where the recipe selects, each is returned at its best; on `reported` images if it says so.
        """
        recipe, train = self.recipe, self.train_split or data.train_split
        kept, held = recipe.holdout_split(len(data.samples(train)))
        specs = [
            HeadSpec(source, width, lr)
            for source, width in self.features.widths(encoder).items()
            for lr in recipe.lrs
        ]
        heads = HeadGrid(specs, data.num_classes, self.head, recipe, context.seed, context.device)
        key = key_of_heads(encoder, self, data, train, context.seed)
        training = HeadTraining(heads, len(kept), context.folder, key)
        places = StepSampler(
            kept, recipe, context.seed, self.chunk, distributed.rank(), distributed.world_size()
        )
        places.start = training.step
        deciding = reported
        if recipe.select == "held out":
            deciding = Subset(self.test_dataset(data, train), held.tolist())

        def scores() -> dict[str, float]:
            found = self.test(encoder, heads, deciding, context)
            return {name: each.value for name, each in found.items()}

        batches = self._batches(encoder, data, places, context)
        training.run(batches, None if recipe.select == "last" else scores)
        training.keep_best()
        return training

    def _batches(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        places: StepSampler,
        context: EvaluationContext,
    ) -> Iterator[HeadBatch]:
        """Yield the features of each step from its place on, and the gradient of its loss."""
        labeled = self.task == "classification"
        loader = DataLoader(
            self.train_dataset(data, context.seed),
            batch_sampler=places,
            num_workers=context.loading.num_workers,
            collate_fn=self.collate,
            worker_init_fn=init_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # draws no random number of the run
        )
        for images, labels in context.track(loader, "training heads", total=len(places)):
            maps = [
                self.features.read(encoder, chunk, context.loading)
                for chunk in images.split(places.chunk)
            ]
            features = {
                name: places.gather(torch.cat([each.features[name] for each in maps]))
                for name in maps[0].features
            }
            targets = places.gather(labels.to(context.device))
            # once true, nobody waits for the device
            labeled = labeled or bool((targets != IGNORE_INDEX).any())
            yield HeadBatch(features, self.loss(targets, maps[0].grid), labeled)


def key_of_heads(
    encoder: Encoder, protocol: TrainedHeads, data: VisionDataModule, train: str, seed: int
) -> str:
    """Return sha256 over all that trained heads and their choice come from."""
    size: int = protocol.transform.size  # type: ignore[union-attr]
    of_features = key_of(encoder, size, data, train, data.val_split)
    settings = json.dumps(protocol, sort_keys=True, default=_public)
    return digest({**of_features, "settings": settings, "seed": seed})


def _public(value: object) -> list[Any]:
    """Return class and public attributes, whose text has no address in memory."""
    public = {name: each for name, each in vars(value).items() if not name.startswith("_")}
    return [type(value).__name__, public]
