"""What CAPI's two dense protocols share (arXiv:2502.08769): squeezed images, a choice, a refit."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from vitlab import distributed
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.evaluation.features import PatchTable, Source, at_own_sizes, patch_table
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.evaluation.protocols.confusion import PerImageConfusion
from vitlab.probes.layer_selection import LayerSelection, check_layers
from vitlab.probes.metrics import IoUCounts
from vitlab.probes.patch_dataset import PatchDataset, StandardScaler, unpatchify

PICTURES = 4  # test images whose predictions are kept

# labels of all pixels, or the one label, of each patch of the queries; of each setting
Predicted = list[Integer[Tensor, "s l"]]


@dataclass(frozen=True)
class Query:
    """Patches that are to be labeled: this rank's share of the images.

    Attributes:
        x: standardized features, image after image.
        images: their places in the table.
    """

    x: Float[Tensor, "s d"]
    images: list[int]


class ResizedProtocol(Protocol):
    """Whole images squeezed into squares; what is chosen is chosen on held out training images.

    1. Features are standardized by the training images that are not held out.
    2. Patches whose most frequent label is void are not learned from.
    3. Every setting is learned without the held out images and scored on them; the first of the
       best is learned again with them.
    4. Scores are of all pixels of the square, whose masks are resized by the nearest pixel.

    Args:
        size: pixels of the square's edge.
        reading: which features of patches.
        held_out: share of the training images that decides.
        precision: of the forward pass; everything else is fp32.
    """

    task = "segmentation"

    def __init__(
        self,
        size: int = 224,
        reading: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        held_out: float = 0.1,
        precision: Precision = "fp32",
    ):
        if not 0 < held_out < 1:
            raise ValueError(f"held_out {held_out} is no share of images; use one between 0 and 1")
        self.size, self.reading = size, reading
        self.held_out, self.precision = held_out, precision

    @property
    @abstractmethod
    def settings(self) -> list[str]:
        """Names of what is tried, in the order that decides between equal ones."""

    @abstractmethod
    def label(
        self,
        bank: PatchDataset,
        query: Query,
        settings: Sequence[int],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        """Learn from a bank, and label patches by each of some settings."""

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        encoder.check_img_size(self.size, "protocol.size")
        check_layers(encoder, [self.reading])
        for split in (data.train_split, data.val_split):
            data.segmentation_dataset(split, SegmentationSquare(self.size)).check()
        images = len(data.samples(data.train_split))
        if images < 2 and len(self.settings) > 1:
            raise ValueError(
                f"{images} training image cannot be divided into ones to learn from and ones to "
                "choose by; give 2 or more, or one setting only"
            )

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Choose on the held out images, learn from all, score the test images."""
        source = Source(encoder, data, self.reading, self.size, self.precision)
        with ExitStack() as opened:
            train = opened.enter_context(patch_table(source, data.train_split, context))
            test = opened.enter_context(patch_table(source, data.val_split, context))
            return self._run(train, test, data, context)

    def _run(
        self,
        train: PatchTable,
        test: PatchTable,
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> Outcome:
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(context.seed))
        held, rest = order.split([(count := self._held(len(order))), len(order) - count])
        held, rest = held.sort().values, rest.sort().values
        standard = StandardScaler.fit(train.x, rest, context.memory)
        bank_of = partial(
            PatchDataset, train.x, train.masks, standard=standard, classes=data.num_classes
        )
        tried: dict[str, float] = {}
        chosen = 0
        if len(held):
            found = self._score(
                bank_of(images=rest), train, held, range(len(self.settings)), data, context
            )
            tried = {
                name: overlaps.value
                for name, (overlaps, _) in zip(self.settings, found, strict=True)
            }
            chosen = max(range(len(found)), key=lambda index: tried[self.settings[index]])
        everything = torch.arange(len(test.x))
        bank = bank_of(images=torch.arange(len(train.x)))
        ((overlaps, shown),) = self._score(bank, test, everything, [chosen], data, context)
        accuracy = 100 * float(overlaps.both.sum() / overlaps.truth.sum())
        return Outcome(
            headline="miou",
            scores={"miou": overlaps.value, "accuracy": accuracy},
            evidence=overlaps,
            tried=tried,
            chosen=self.settings[chosen] if tried else "",
            chosen_on="held out" if tried else "",
            predictions=at_own_sizes(shown, data),
        )

    def _held(self, images: int) -> int:
        return max(1, int(images * self.held_out)) if len(self.settings) > 1 else 0

    def _score(
        self,
        bank: PatchDataset,
        table: PatchTable,
        images: Int[Tensor, " n"],
        settings: Sequence[int],
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> list[tuple[IoUCounts, list[Tensor]]]:
        """Return the counts of each setting, and the first predictions."""
        mine = images.tolist()[distributed.rank() :: distributed.world_size()]
        x = bank.standard(table.x[mine].flatten(0, 1)).to(context.device)
        predicted = self.label(bank, Query(x, mine), settings, data.num_classes, context)
        return [self._count(labels, table, mine, data.num_classes, context) for labels in predicted]

    def _count(
        self,
        labels: Integer[Tensor, "s l"],
        table: PatchTable,
        images: list[int],
        classes: int,
        context: EvaluationContext,
    ) -> tuple[IoUCounts, list[Tensor]]:
        # void may be predicted, which is a miss
        counting = PerImageConfusion(classes + 1, classes, context.device)
        maps = [
            unpatchify(each, table.grid, self.size)
            for each in labels.split(table.grid[0] * table.grid[1])
            if len(each)
        ]
        for index, predicted in zip(images, maps, strict=True):
            counting.update(predicted.long(), table.masks[index])
        least = -(-PICTURES // distributed.world_size())
        found = counting.matched(rename=False)
        shown = torch.zeros(min(least, len(maps)), self.size, self.size, dtype=torch.uint8)
        for place, predicted in zip(shown, maps, strict=False):
            place[:] = found.classes[predicted.long()]
        gathered = distributed.all_gather_rows(shown.to(context.device)).cpu()
        return found.overlaps, list(gathered[:PICTURES])


def by_rows(
    count: int, bytes_of_one: int, memory: int, label: Callable[[slice], Predicted]
) -> Predicted:
    """Label patches in blocks that memory has room for.

    Args:
        count: of patches.
        bytes_of_one: that labeling one of them takes.
        memory: bytes of a block.
        label: labels some of them, by each setting.

    Raises:
        ValueError: memory for less than one.
    """
    rows = memory // bytes_of_one
    if rows < 1:
        raise ValueError(
            f"memory of {memory} bytes does not hold the votes of one patch; allow "
            f"{bytes_of_one} bytes or more"
        )
    # at least one block: a rank may have nothing to label
    parts = [label(slice(start, start + rows)) for start in range(0, max(count, 1), rows)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]
