"""Hummingbird's dense retrieval (arXiv:2306.01667), corrected or as its open code has it.

The memory is never held as a whole: its features are processed in blocks while the nearest
neighbors of all queries are kept, in fp32, and its labels, as 16-bit counts of pixels.

Axis letters: b images, p patches of each, d width, c classes, m patches of the memory, n queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor
from torch.utils.data import Subset

from vitlab import distributed
from vitlab.data import VisionDataModule, normalize
from vitlab.data.transforms import IGNORE_INDEX, STD
from vitlab.encoders import Encoder
from vitlab.errors import InputError, check_least
from vitlab.evaluation.features import check_ranks, first_of_all
from vitlab.evaluation.protocol import PICTURES, EvaluationContext, Outcome, Precision, Protocol
from vitlab.evaluation.square_transforms import HummingbirdCrop, SquareResize
from vitlab.probes.dense import ALL_VOID, class_counts, upsample
from vitlab.probes.features import sharded_loader
from vitlab.probes.layer_selection import LayerSelection, check_layers, extract_layers
from vitlab.probes.metrics import PerImageConfusion, best_columns, matched_counts
from vitlab.probes.neighbors import Neighbors, NeighborSearch
from vitlab.progress import track


@dataclass(frozen=True)
class Quirks:
    """How the open code (vpariza/open-hummingbird-eval) departs from what it means to measure.

    Args:
        scale: shares of the image's area that crops cover. There (0.5, 2): parts larger than the
            image are drawn in vain.
        bicubic: whether images are resized bicubically; there bilinearly.
        void: "ignore" leaves it out of the memory; "background" makes it class 0, as there; "class"
            makes it one more class that may be predicted, as there for ADE20K, whose void is 0.
        blue_std: deviation by which blue is divided; there 0.255, a slip.
        hungarian_matching: whether predicted classes are renamed so that the sum of IoU over the
            reported images is largest, as there.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    bicubic: bool = True
    void: Literal["ignore", "background", "class"] = "ignore"
    blue_std: float = STD[2]
    hungarian_matching: bool = False


@dataclass(frozen=True)
class Hummingbird(Protocol):
    """Each patch gets the labels of the nearest patches of a memory, weighed by similarity.

    1. The memory: patches of random crops of the training images in several passes, each with its
       counts of classes. From each crop come equally many, those of rare classes rather than
       others; the crops of an image and its patches are a function of the seed, pass and image.
    2. Exact nearest neighbors by cosine, weighed by softmax(cosine / temperature).
    3. Soft labels are enlarged bilinearly to the square that the test image was squeezed into, and
       scored there; masks are squeezed by the nearest pixel.

    Args:
        size: pixels of the square's edge, at most: the largest multiple of the patch counts, which
            for 512 is 504 with patch 14.
        memory_size: patches at most; 0 keeps all.
        augmentation_epochs: over the training images.
        num_neighbors: of each patch.
        temperature: of the softmax.
        layer_selection: which features of patches.
        quirks: the open code's.
        precision: of the forward pass; everything else is fp32.
    """

    task = "segmentation"
    size: int = 512
    memory_size: int = 10_240_000
    augmentation_epochs: int = 2
    num_neighbors: int = 30
    temperature: float = 0.02
    layer_selection: LayerSelection = LayerSelection()  # noqa: RUF009, frozen
    quirks: Quirks = Quirks()
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        least = {"memory_size": 0, "augmentation_epochs": 1, "num_neighbors": 1}
        check_least(self, "protocol.", {**least, "temperature": 1e-6})

    def edge(self, encoder: Encoder) -> int:
        """Return the pixels of the square's edge."""
        return self.size - self.size % encoder.patch_size

    def patches(self, encoder: Encoder, images: int) -> int:
        """Return how many patches of each crop enter the memory."""
        cells = (self.edge(encoder) // encoder.patch_size) ** 2
        most = self.memory_size // (images * self.augmentation_epochs)
        return min(most, cells) if self.memory_size else cells

    @property
    def learns_void(self) -> bool:  # type: ignore[override]
        """Whether void is a class of its own, or background."""
        return self.quirks.void != "ignore"

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit."""
        edge = self.edge(encoder)
        if edge < encoder.patch_size:
            raise InputError(
                f"protocol.size {self.size} is smaller than patch {encoder.patch_size}; use "
                f"{encoder.patch_size} or more",
                field="protocol.size",
            )
        encoder.check_img_size(edge, "protocol.size")
        check_layers(encoder, [self.layer_selection])
        images = len(data.samples(data.train_split))
        crops, each = images * self.augmentation_epochs, self.patches(encoder, images)
        if not each:
            raise InputError(
                f"a memory of {self.memory_size} has no room for one patch of each of {images} "
                f"images in {self.augmentation_epochs} passes; use {crops} or more",
                field="protocol.memory_size",
            )
        if each * crops < self.num_neighbors:
            raise InputError(
                f"{self.num_neighbors} neighbors are asked of a memory of {each * crops} patches; "
                "use fewer, or more images",
                field="protocol.num_neighbors",
            )

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Pass the memory by the test images' patches, then read out and score."""
        edge = self.edge(encoder)
        cells = edge // encoder.patch_size
        check_ranks(data, data.val_split)
        resize = SquareResize(edge, self.quirks.bicubic)
        test = data.segmentation_dataset(data.val_split, resize)
        loader = sharded_loader(test, context.loading)
        features, masks = [], []
        for images, truths in track(loader, "test features"):
            features.append(self._patches(encoder, images, context).flatten(0, 1))
            masks.extend(truths)
        search = NeighborSearch(torch.cat(features), self.num_neighbors, "cosine", context.memory)
        del features
        memory = torch.cat(list(self._remember(encoder, data, search, context)))
        if not len(memory):
            raise InputError(ALL_VOID, field="data")
        confusion = PerImageConfusion(memory.shape[1], data.num_classes, context.device)
        first: list[Tensor] = []
        found = search.neighbors()
        parts = (each.split(cells**2) for each in (found.index, found.similarity))
        for mask, *nearest in zip(masks, *parts, strict=True):
            soft = soft_labels(Neighbors(*nearest), memory, self.temperature).T
            logits = upsample(soft.unflatten(1, (cells, cells))[None], (edge, edge))
            predicted = logits[0].argmax(0)
            confusion.update(predicted, mask)
            if len(first) < PICTURES:
                first.append(predicted.cpu())
        matrices = confusion.matrices()
        columns = torch.arange(data.num_classes)
        if self.quirks.hungarian_matching:
            columns = best_columns(matrices.sum(0))
        counts = matched_counts(matrices, columns)
        names = torch.full((memory.shape[1],), IGNORE_INDEX, dtype=torch.uint8)
        names[columns] = torch.arange(len(columns), dtype=torch.uint8)
        # the open code's mean has every class, absent ones and ADE20K's void with IoU 0
        every = float(counts.iou().nansum() / memory.shape[1])
        return Outcome(
            headline="miou",
            scores={"miou": counts.value, "miou/every class": every},
            counts=counts,
            predictions=first_of_all([names[each] for each in first], edge, context),
        )

    def _patches(
        self, encoder: Encoder, images: UInt8[Tensor, "b 3 h w"], context: EvaluationContext
    ) -> Float[Tensor, "b p d"]:
        x = normalize(images.to(context.device))
        if self.quirks.blue_std != STD[2]:
            x[:, 2] *= STD[2] / self.quirks.blue_std
        with context.loading.precision():
            return extract_layers(encoder, x, [self.layer_selection])[0].patches.float()

    def _remember(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        search: NeighborSearch,
        context: EvaluationContext,
    ) -> Iterator[Int16[Tensor, "_ c"]]:
        """Pass the memory's features through the search, and yield its labels."""
        edge, batch, world = (
            self.edge(encoder),
            context.loading.batch_size,
            distributed.world_size(),
        )
        crop = HummingbirdCrop(edge, self.quirks.scale, bicubic=self.quirks.bicubic)
        train = data.segmentation_dataset(data.train_split, crop)
        train.seed = context.seed  # the result's seed, not the dataset's, decides the crops
        most, width = self.patches(encoder, len(train)), search.queries.shape[1]
        classes = data.num_classes + (self.quirks.void == "class")
        steps = -(-len(train) // (batch * world))
        for epoch in range(self.augmentation_epochs):
            places = [(epoch, index) for index in range(len(train))]
            loader = iter(sharded_loader(Subset(train, places), context.loading))  # type: ignore[arg-type]
            name = f"memory, pass {epoch + 1} of {self.augmentation_epochs}"
            for step in track(range(steps), name):
                # ranks may run out one step earlier than others, and then give nothing
                images, masks = next(loader, (torch.zeros(0), ()))
                x = torch.zeros(len(masks), most, width)
                y = torch.full((len(masks), most, classes), -1, dtype=torch.int32)  # -1: no patch
                patches = self._patches(encoder, images, context).cpu() if len(masks) else x
                first = step * batch * world + distributed.rank()
                for row, (own, mask) in enumerate(zip(patches, masks, strict=True)):
                    counts = self._labels(mask, edge // encoder.patch_size, data)
                    seed = (context.seed, epoch, first + row * world)
                    chosen = sample_patches(counts, seed, most)
                    x[row, : len(chosen)] = own[chosen]
                    y[row, : len(chosen)] = counts[chosen].int()
                # gathered by image, so that the order is that of the set on any number of ranks
                x = distributed.all_gather_rows(x.to(context.device)).flatten(0, 1)
                y = distributed.all_gather_rows(y.to(context.device)).flatten(0, 1)
                search.add(x[y[:, 0] >= 0])
                yield y[y[:, 0] >= 0].to("cpu", torch.int16)

    def _labels(self, mask: Tensor, cells: int, data: VisionDataModule) -> Int[Tensor, "p c"]:
        """Return the pixels of each class in each patch, with void as the quirks have it."""
        counts = class_counts(mask, (cells, cells), data.num_classes)
        if self.quirks.void == "class":
            return counts
        if self.quirks.void == "background":
            counts[:, 0] += counts[:, -1]
        return counts[:, :-1]


def sample_patches(
    counts: Int[Tensor, "p c"], seed: tuple[int, ...], most: int
) -> Int[Tensor, " k"]:
    """Sample patches of an image, with preference for rare classes; lowest scores first.

    The score of a patch is, over the classes in it, the sum of how many patches of the image have
    that class, times a uniform random number. Patches without any class are not chosen.

    Args:
        counts: pixels of each class.
        seed: of the random factors.
        most: number of patches.
    """
    present = (counts > 0).float()
    factors = torch.from_numpy(np.random.default_rng(seed).random(len(counts)))
    score = (present @ present.sum(0)) * factors
    order = score.argsort(stable=True)
    return order[present.any(1)[order]][:most]


def soft_labels(
    neighbors: Neighbors, counts: Int16[Tensor, "m c"], temperature: float
) -> Float[Tensor, "n c"]:
    """Return soft labels: the neighbors' shares of classes, by softmax(cosine / temperature).

    Args:
        neighbors: of the queries, by cosine.
        counts: pixels of each class in each patch of the memory.
        temperature: of the softmax.
    """
    near = counts[neighbors.index.to(counts.device)].to(neighbors.similarity.device).float()
    shares = near / near.sum(2, keepdim=True)
    weights = (neighbors.similarity / temperature).softmax(1)
    return (weights[:, None] @ shares)[:, 0]
