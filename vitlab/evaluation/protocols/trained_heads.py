"""What the protocols of trained heads share: training, what its state is known by, the outcome."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch.utils.data import Dataset, Subset

from vitlab import distributed
from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.evaluation.fingerprint import (
    digest,
    fingerprint_of_data,
    fingerprint_of_heads,
    sampled_contents,
)
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Protocol
from vitlab.probes.head_batches import holdout_split, settings_repr
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, HeadSpec
from vitlab.probes.metrics import PerImageCounts
from vitlab.probes.recipe import StepSampler, TrainingRecipe

Counts = TypeVar("Counts", bound=PerImageCounts)


@dataclass(frozen=True)
class Tested(Generic[Counts]):
    """What a head was found to know.

    Attributes:
        evidence: of its predictions.
        finite: whether all its logits were; otherwise predictions mean nothing.
    """

    evidence: Counts
    finite: bool

    @property
    def value(self) -> float:
        """The score in percent; NaN for a head that has diverged."""
        return self.evidence.value if self.finite else math.nan


class TrainedHeads(Protocol):
    """Heads trained side by side: every combination of features and learning rate is one.

    Attributes:
        recipe: how heads are trained, and which one makes the headline.
        layers: what a head is made of.
        chunk: training images of one forward pass at most.
    """

    recipe: TrainingRecipe
    layers: HeadConfig
    chunk: int

    @abstractmethod
    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Return the width of each choice of features, by its name."""

    @abstractmethod
    def batches(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        places: StepSampler,
        context: EvaluationContext,
    ) -> Iterator[HeadBatch]:
        """Yield the features of each step from its place on."""

    @abstractmethod
    def tested(self, data: VisionDataModule, split: str) -> Dataset:
        """Return the images of a split as heads are tested on them."""

    @abstractmethod
    def examine(
        self, encoder: Encoder, heads: HeadGrid, images: Dataset, context: EvaluationContext
    ) -> Mapping[str, Tested[Any]]:
        """Test all heads on the same passes of the encoder."""

    def fit(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        train: str,
        reported: Dataset,
        context: EvaluationContext,
    ) -> HeadTraining:
        """Train all heads, from where an interrupted run has left them.

        Args:
            encoder: whose features they read.
            data: the dataset.
            train: split that is learned from.
            reported: images that decide where the recipe selects on them.
            context: where, and what is kept.

        Returns:
            The heads; where the recipe selects, each at its best.
        """
        recipe = self.recipe
        kept, held = holdout_split(len(data.samples(train)), recipe.select == "held out")
        planned = [
            HeadSpec(source, width, lr)
            for source, width in self.widths(encoder).items()
            for lr in recipe.lrs
        ]
        heads = HeadGrid(
            planned, data.num_classes, self.layers, recipe, context.seed, context.device
        )
        key = key_of_heads(encoder, self, data, train, context.seed)
        fitting = HeadTraining(heads, len(kept), context.folder, key)
        places = StepSampler(
            kept, recipe, context.seed, self.chunk, distributed.rank(), distributed.world_size()
        )
        places.start = fitting.step
        decides: Dataset | None = None
        if recipe.select == "val":
            decides = reported
        elif recipe.select == "held out":
            decides = Subset(self.tested(data, train), held.tolist())

        def scores() -> dict[str, float]:
            assert decides is not None
            found = self.examine(encoder, heads, decides, context)
            return {name: tested.value for name, tested in found.items()}

        fitting.run(
            self.batches(encoder, data, places, context), None if decides is None else scores
        )
        fitting.keep_best()
        return fitting


def key_of_heads(
    encoder: Encoder, protocol: Protocol, data: VisionDataModule, train: str, seed: int
) -> str:
    """Return sha256 over all that trained heads and their choice come from.

    Args:
        encoder: its class, arguments and weights count.
        protocol: all its settings count.
        data: names, labels and sampled contents of both splits count.
        train: split that is learned from.
        seed: of everything random.
    """
    rest = {
        "settings": repr(settings_repr(protocol)),
        "data": [fingerprint_of_data(data, split) for split in (train, data.val_split)],
        "files": [sampled_contents(data, split) for split in (train, data.val_split)],
        "seed": seed,
    }
    return fingerprint_of_heads(encoder, data.samples(train), digest(rest))


def head_of_headline(found: Mapping[str, Tested], fitting: HeadTraining) -> str:
    """Return the name of the head that is quoted: the chosen one, or the first.

    Raises:
        ValueError: it has diverged.
    """
    heads = fitting.heads
    head = fitting.chosen if heads.recipe.select != "last" else heads.names[0]
    if not found[head].finite:
        raise ValueError(
            f"the head of the headline ({head}) has diverged: its logits are not finite; give "
            "smaller learning rates as protocol.recipe.lrs"
        )
    return head


def outcome_of(
    score: str, head: str, found: Mapping[str, Tested], fitting: HeadTraining
) -> Outcome:
    """Return what was found, with the head of the headline in front.

    Args:
        score: what heads are scored by.
        head: of the headline.
        found: of every head on the test images, by its name.
        fitting: that made them.
    """
    select = fitting.heads.recipe.select
    scores = {name: tested.value for name, tested in found.items()}
    tried = scores if select == "last" else fitting.tried
    several = len(tried) > 1
    chosen = head if select == "last" else fitting.label(head)
    return Outcome(
        headline=score,
        scores={score: scores[head], **{f"{score}/{name}": s for name, s in scores.items()}},
        evidence=found[head].evidence,
        tried=tried,
        chosen=chosen if several else "",
        chosen_on=select if several and select != "last" else "",
    )
