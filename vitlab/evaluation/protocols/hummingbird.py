"""Hummingbird's dense retrieval (arXiv:2306.01667), corrected or as its open code has it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import distributed
from vitlab.data import VisionDataModule, normalize
from vitlab.data.dataset import SegmentationDataset
from vitlab.data.transforms import STD, ImageAndMask
from vitlab.encoders import Encoder, Tokens
from vitlab.evaluation.features import at_own_sizes, check_ranks
from vitlab.evaluation.ignore_index import require_labels, require_scored_pixels
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Precision, Protocol
from vitlab.evaluation.protocols.confusion import PerImageConfusion
from vitlab.evaluation.protocols.hummingbird_transforms import HummingbirdCrop, HummingbirdResize
from vitlab.probes.dense import ALL_VOID, class_counts, upsample
from vitlab.probes.features import sharded_loader
from vitlab.probes.hummingbird import sample_patches, soft_labels
from vitlab.probes.layer_selection import LayerSelection, check_layers, extract_layers
from vitlab.probes.neighbors import Neighbors, NeighborSearch

PICTURES = 4  # test images whose predictions are kept


@dataclass(frozen=True)
class Quirks:
    """How the open code (vpariza/open-hummingbird-eval) departs from what it means to measure.

    Args:
        scale: shares of the image's area that crops cover. There (0.5, 2): parts larger than the
            image are drawn in vain.
        smooth: whether images are resized bicubically; there bilinearly.
        void: "left out" of the memory; "background" makes it class 0, as there; "class" makes it
            one more class that may be predicted, as there for ADE20K, whose void is value 0.
        blue: deviation by which blue is divided; there 0.255, a slip.
        matched: whether predicted classes are renamed so that the sum of IoU over the reported
            images is largest (Hungarian matching), as there.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    smooth: bool = True
    void: Literal["left out", "background", "class"] = "left out"
    blue: float = STD[2]
    matched: bool = False


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
        memory: patches at most; 0 keeps all.
        passes: over the training images.
        neighbors: of each patch.
        temperature: of the softmax.
        reading: which features of patches.
        quirks: the open code's.
        precision: of the forward pass; everything else is fp32.
    """

    task = "segmentation"

    def __init__(
        self,
        size: int = 512,
        memory: int = 10_240_000,
        passes: int = 2,
        neighbors: int = 30,
        temperature: float = 0.02,
        reading: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        quirks: Quirks = Quirks(),
        precision: Precision = "fp32",
    ):
        if memory < 0 or min(passes, neighbors) < 1 or temperature <= 0:
            raise ValueError(
                f"memory {memory} must not be negative, passes {passes} and neighbors {neighbors} "
                f"1 or more, temperature {temperature} above 0"
            )
        self.size, self.memory, self.passes = size, memory, passes
        self.neighbors, self.temperature = neighbors, temperature
        self.reading, self.quirks, self.precision = reading, quirks, precision

    def edge(self, encoder: Encoder) -> int:
        """Return the pixels of the square's edge."""
        return self.size - self.size % encoder.patch_size

    def patches(self, encoder: Encoder, images: int) -> int:
        """Return how many patches of each crop enter the memory."""
        cells = (self.edge(encoder) // encoder.patch_size) ** 2
        return min(self.memory // (images * self.passes), cells) if self.memory else cells

    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        edge = self.edge(encoder)
        if edge < encoder.patch_size:
            raise ValueError(
                f"protocol.size {self.size} is smaller than patch {encoder.patch_size}; use "
                f"{encoder.patch_size} or more"
            )
        encoder.check_img_size(edge, "protocol.size")
        check_layers(encoder, [self.reading])
        for split in (data.train_split, data.val_split):
            data.segmentation_dataset(split, HummingbirdResize(edge)).check()
            if split == data.val_split or self.quirks.void == "left out":
                require_labels(data, split)
        images = len(data.samples(data.train_split))
        each = self.patches(encoder, images)
        if not each:
            raise ValueError(
                f"a memory of {self.memory} has no room for one patch of each of {images} images "
                f"in {self.passes} passes; use {images * self.passes} or more"
            )
        if each * images * self.passes < self.neighbors:
            raise ValueError(
                f"{self.neighbors} neighbors are asked of a memory of "
                f"{each * images * self.passes} patches; use fewer, or more images"
            )

    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Let the memory pass by the test images' patches, then read out and score."""
        edge = self.edge(encoder)
        check_ranks(data, data.val_split)
        test = data.segmentation_dataset(
            data.val_split, HummingbirdResize(edge, self.quirks.smooth)
        )
        loader = sharded_loader(test, context.loading)
        features, masks = [], []
        for images, truths in context.track(loader, "test features", total=len(loader)):
            features.append(self._encode(encoder, images, context).patches.float().flatten(0, 1))
            masks.append(truths)
        search = NeighborSearch(torch.cat(features), self.neighbors, "cosine", context.memory)
        del features
        counts = torch.cat(list(self._remember(encoder, data, search, context)))
        if not len(counts):
            raise ValueError(ALL_VOID)
        confusions = PerImageConfusion(counts.shape[1], data.num_classes, context.device)
        maps = self._predict(search.neighbors(), counts, edge // encoder.patch_size, edge)
        least = -(-PICTURES // distributed.world_size())  # of each rank
        shown = torch.zeros(0, edge, edge, dtype=torch.uint8, device=context.device)
        for mask, predicted in zip(torch.cat(masks), maps, strict=True):
            confusions.update(predicted, mask)
            if len(shown) < least:
                shown = torch.cat([shown, predicted[None].to(torch.uint8)])
        found = confusions.matched(self.quirks.matched)
        require_scored_pixels(found.overlaps, data)
        pictures = distributed.all_gather_rows(shown)[:PICTURES].cpu()
        return Outcome(
            headline="miou",
            scores={
                "miou": found.overlaps.value,
                # the open code's mean has every class, absent ones and ADE20K's void with IoU 0
                "miou/every class": float(found.overlaps.iou().nansum() / counts.shape[1]),
            },
            evidence=found.overlaps,
            predictions=at_own_sizes(list(found.classes[pictures.long()]), data),
        )

    def _encode(
        self, encoder: Encoder, images: UInt8[Tensor, "b 3 h w"], context: EvaluationContext
    ) -> Tokens:
        x = normalize(images.to(context.device))
        if self.quirks.blue != STD[2]:
            x[:, 2] *= STD[2] / self.quirks.blue
        with context.loading.precision():
            return extract_layers(encoder, x, [self.reading])[0]

    def _remember(
        self,
        encoder: Encoder,
        data: VisionDataModule,
        search: NeighborSearch,
        context: EvaluationContext,
    ) -> Iterator[Int16[Tensor, "_ c"]]:
        """Show the memory's features to the search, and yield its labels."""
        edge, loading = self.edge(encoder), context.loading
        transform = HummingbirdCrop(edge, self.quirks.scale, smooth=self.quirks.smooth)
        train = data.segmentation_dataset(data.train_split, transform)
        train.seed = context.seed  # the result's seed, not the dataset's, decides the crops
        most = self.patches(encoder, len(train))
        steps = -(-len(train) // (loading.batch_size * distributed.world_size()))
        nothing = torch.zeros(0, 3, edge, edge, dtype=torch.uint8), torch.zeros(0, edge, edge)
        for number in range(self.passes):
            loader = iter(sharded_loader(_Pass(train, number), loading))
            name = f"memory, pass {number + 1} of {self.passes}"
            for step in context.track(range(steps), name, total=steps):
                # ranks may run out one step earlier than others, and then give nothing
                images, masks = next(loader, nothing)
                first = step * loading.batch_size * distributed.world_size() + distributed.rank()
                seeds = [
                    (context.seed, number, first + row * distributed.world_size())
                    for row in range(len(images))
                ]
                labels = [self._labels(mask, edge // encoder.patch_size, data) for mask in masks]
                chosen = [sample_patches(*each, most) for each in zip(labels, seeds, strict=True)]
                rows = self._rows(encoder, images, labels, chosen, most, data, context)
                search.add(rows[0])
                yield rows[1].to("cpu", torch.int16)

    def _rows(
        self,
        encoder: Encoder,
        images: UInt8[Tensor, "b 3 h w"],
        labels: list[Int[Tensor, "p c"]],
        chosen: list[Int[Tensor, " _"]],
        most: int,
        data: VisionDataModule,
        context: EvaluationContext,
    ) -> tuple[Float[Tensor, "m d"], Int[Tensor, "m c"]]:
        """Return features and labels of the chosen patches of all ranks, in the set's order."""
        classes = data.num_classes + (self.quirks.void == "class")
        x = torch.zeros(len(images), most, encoder.embed_dim * len(self.reading.layers))
        y = torch.full((len(images), most, classes), -1, dtype=torch.int32)  # -1: no patch
        if len(images):
            patches = self._encode(encoder, images, context).patches.float().cpu()
            for row, index in enumerate(chosen):
                x[row, : len(index)] = patches[row, index]
                y[row, : len(index)] = labels[row][index].int()
        # gathered by image, so that the order is that of the set on any number of ranks
        x = distributed.all_gather_rows(x.to(context.device)).flatten(0, 1)
        y = distributed.all_gather_rows(y.to(context.device)).flatten(0, 1)
        return x[y[:, 0] >= 0], y[y[:, 0] >= 0]

    def _labels(self, mask: Tensor, cells: int, data: VisionDataModule) -> Int[Tensor, "p c"]:
        """Return the pixels of each class in each patch, with void as the quirks have it."""
        counts = class_counts(mask, (cells, cells), data.num_classes)
        if self.quirks.void == "class":
            return counts
        if self.quirks.void == "background":
            counts[:, 0] += counts[:, -1]
        return counts[:, :-1]

    def _predict(
        self, neighbors: Neighbors, counts: Int16[Tensor, "m c"], cells: int, edge: int
    ) -> Iterator[Int[Tensor, "edge edge"]]:
        """Yield the class of each pixel, image after image."""
        parts = zip(
            neighbors.index.split(cells**2), neighbors.similarity.split(cells**2), strict=True
        )
        for index, similarity in parts:
            soft = soft_labels(Neighbors(index, similarity), counts, self.temperature)
            yield upsample(soft.T.unflatten(1, (cells, cells))[None], (edge, edge))[0].argmax(0)


class _Pass(Dataset[ImageAndMask]):
    """The images of one pass, each with its own random crop."""

    def __init__(self, images: SegmentationDataset, number: int):
        self.images, self.number = images, number

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageAndMask:
        return self.images[self.number, index]
