"""Base of CAPI's two dense protocols (arXiv:2502.08769): squeezed images, a choice, a refit."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from vitlab import distributed
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.features import (
    SegmentationTable,
    Source,
    at_own_sizes,
    first_of_all,
    patch_table,
)
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Outcome, Precision, Protocol
from vitlab.probes.layer_selection import LayerSelection, check_layers
from vitlab.probes.metrics import IoUAccumulator, IoUCounts
from vitlab.probes.patch_dataset import PatchDataset, StandardScaler, unpatchify

# labels of all pixels, or the one label, of each patch of the queries; of each setting
Predicted = list[Integer[Tensor, "s l"]]


class ResizedProtocol(Protocol):
    """Whole images squeezed into squares; what is chosen is chosen on held out training images.

    1. Features are standardized by the training images that are not held out.
    2. Patches whose most frequent label is void are not learned from.
    3. Every setting is learned without the held out images and scored on them; the first of the
       best is learned again with them.
    4. Scores are of all pixels of the square, whose masks are resized by the nearest pixel.

    Args:
        size: pixels of the square's edge.
        layer_selection: which features of patches.
        holdout_fraction: share of the training images that decides.
        precision: of the forward pass; everything else is fp32.
    """

    task = "segmentation"

    def __init__(
        self,
        size: int = 224,
        layer_selection: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        holdout_fraction: float = 0.1,
        precision: Precision = "fp32",
    ):
        if not 0 < holdout_fraction < 1:
            raise InputError(
                f"holdout_fraction {holdout_fraction} must be between 0 and 1",
                field="protocol.holdout_fraction",
            )
        self.size, self.layer_selection = size, layer_selection
        self.holdout_fraction, self.precision = holdout_fraction, precision

    @property
    @abstractmethod
    def settings(self) -> list[str]:
        """Names of what is tried, in the order that decides between equal ones."""

    @abstractmethod
    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[int],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        """Learn from labeled patches, and label others by each of some settings.

        Args:
            patches: to learn from.
            x: standardized features to be labeled.
            settings: places in `settings`.
            classes: number of classes; void is one more.
            context: where, and how much memory.
        """

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
        encoder.check_img_size(self.size, "protocol.size")
        check_layers(encoder, [self.layer_selection])
        for split in (data.train_split, data.val_split):
            data.segmentation_dataset(split, SegmentationSquare(self.size)).check()
        images = len(data.samples(data.train_split))
        if images < 2 and len(self.settings) > 1:
            raise InputError(
                f"{images} training image cannot be divided into ones to learn from and ones to "
                "choose by; give 2 or more, or one setting only",
                field="data.train_split",
            )

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Choose on the held out images, learn from all, score the test images."""
        source = Source(encoder, data, self.layer_selection, self.size, self.precision)
        train = patch_table(source, data.train_split, context)
        test = patch_table(source, data.val_split, context)
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(context.seed))
        count = max(1, int(len(order) * self.holdout_fraction)) if len(self.settings) > 1 else 0
        held, rest = order[:count].sort().values, order[count:].sort().values
        standard = StandardScaler.fit(train.x, rest, context.memory)
        dataset = partial(
            PatchDataset, train.x, train.masks, standard=standard, classes=data.num_classes
        )
        tried: dict[str, float] = {}
        chosen = 0
        if count:
            every = range(len(self.settings))
            found = self._score(dataset(images=rest), train, held, every, data, context)
            values = [counts.value for counts, _ in found]
            tried = dict(zip(self.settings, values, strict=True))
            chosen = values.index(max(values))
        learned, tested = dataset(images=torch.arange(len(train.x))), torch.arange(len(test.x))
        ((counts, maps),) = self._score(learned, test, tested, [chosen], data, context)
        accuracy = 100 * float(counts.both.sum() / counts.truth.sum())
        return Outcome(
            headline="miou",
            scores={"miou": counts.value, "accuracy": accuracy},
            counts=counts,
            tried=tried,
            chosen=self.settings[chosen] if tried else "",
            chosen_on="held out" if tried else "",
            predictions=at_own_sizes(maps, data),
        )

    def _score(
        self,
        patches: PatchDataset,
        table: SegmentationTable,
        images: Int[Tensor, " n"],
        settings: Sequence[int],
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> list[tuple[IoUCounts, list[Tensor]]]:
        """Return the counts of each setting, and its predictions of the first images."""
        mine = images.tolist()[distributed.rank() :: distributed.world_size()]
        x = patches.standard(table.x[mine].flatten(0, 1)).to(context.device)
        classes, scored = data.num_classes, []
        for labels in self.label(patches, x, settings, classes, context):
            accumulator = IoUAccumulator(classes + 1, context.device)  # the last is void
            maps = [
                unpatchify(each, table.grid, self.size)
                for each in labels.split(table.grid[0] * table.grid[1])
                if len(each)
            ]
            for index, predicted in zip(mine, maps, strict=True):
                accumulator.update(predicted.long(), table.masks[index])
            counts = accumulator.overlaps().tensors().values()
            void = [each.masked_fill(each == classes, IGNORE_INDEX) for each in maps[:PICTURES]]
            shown = first_of_all(void, self.size, context)
            # void may be predicted, which is a miss, and is no class of the mean
            scored.append((IoUCounts(*(each[:, :-1] for each in counts)), shown))
        return scored
