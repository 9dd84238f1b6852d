"""`VisionDataModule`: from a folder of images to batches."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from vitlab.data.batch import Batch, collate
from vitlab.data.dataset import (
    ClassificationDataset,
    SegmentationDataset,
    TrainingDataset,
    too_many,
)
from vitlab.data.errors import DataError
from vitlab.data.foreground import foreground_masks
from vitlab.data.loader import Loader, ResumableLoader, resume, set_accumulation
from vitlab.data.picture_faults import refuse_pictures
from vitlab.data.sampler import BatchLayout, GlobalBatchSampler, split_global_batch
from vitlab.data.samples import Samples, check_listed
from vitlab.data.storage import FileTree, Layout
from vitlab.data.transforms import MultiCrop, SegmentationTransform, Transform, normalize
from vitlab.errors import check_least, trying
from vitlab.usage_errors import subclasses


class VisionDataModule(LightningDataModule, ABC):
    """A dataset on disk, and the batches made of it.

    A subclass states facts (`layout`, `splits`, `classes`, `mask_values`) and lists its files in
    `scan`. Batches are a function of the files, the settings and the epoch: neither the number
    of devices nor of workers changes which samples form a step, or how they are augmented.

    Args:
        root: folder of the dataset, or one of the usual folders above it.
        global_batch_size: images in one optimizer step, over all devices and micro-batches.
        micro_batch_size: images that one device can hold; larger batches accumulate; 0: no limit.
        transform: of a training image into views.
        num_workers: processes that load images, for each device; 0 loads in the main process.
        train_split: name of the split to train on.
        val_split: name of the split to evaluate on.
        max_unreadable: damaged files that each process may replace by their neighbors in training
            before the run stops, and in a row in a probe; 0 tolerates none.
        seed: of the order of samples and their augmentation; not negative.
        repeats: copies of an image in a batch, of as many fewer images; DeiT augments 3.
    """

    layout: ClassVar[Layout] = Layout(marks=())  # any folder
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    counts: ClassVar[dict[str, int]] = {}  # images of each split, where they are known
    values_remedy: ClassVar[str] = "use the original masks, not ones that are renumbered"

    def __init__(
        self,
        root: str | Path,
        global_batch_size: int = 512,
        micro_batch_size: int = 0,
        transform: Transform = MultiCrop(),  # noqa: B008, holds no state between calls
        num_workers: int = 8,
        train_split: str = "train",
        val_split: str = "val",
        max_unreadable: int = 100,
        seed: int = 0,
        repeats: int = 1,
    ):
        super().__init__()
        self.root = Path(root).expanduser()
        self.global_batch_size, self.micro_batch_size = global_batch_size, micro_batch_size
        self.transform, self.num_workers = transform, num_workers
        self.train_split, self.val_split = map(self.split_name, (train_split, val_split))
        self.max_unreadable, self.seed, self.repeats = max_unreadable, seed, repeats
        least = {"global_batch_size": 1, "repeats": 1, "micro_batch_size": 0, "num_workers": 0}
        check_least(self, "data.", least | {"max_unreadable": 0, "seed": 0})
        self._samples: dict[str, Samples] = {}
        self._unreadable: list[str] = []
        self._masks: np.ndarray | None = None
        self._disjoint: set[tuple[str, str]] = set()

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Name of each class, in the order of its index."""

    @abstractmethod
    def scan(self, split: str) -> Samples:
        """List the files of one of `splits`; `samples` is the one to call."""

    @property
    def mask_values(self) -> dict[int, int]:
        """Class index, or 255, of each value that a mask file may hold."""
        return {}

    def implausible(self, values: set[int]) -> str:
        """Why a mask with these values, all of them allowed, cannot be what it is called; or ""."""
        return ""

    @staticmethod
    def split_name(name: str) -> str:
        """The one name of a split that may have several."""
        return name

    @property
    def dataset_name(self) -> str:
        """The name in plans and results."""
        return type(self).__name__

    @property
    def num_classes(self) -> int:
        """Number of classes; ignored pixels are not one."""
        return len(self.classes)

    @property
    def files(self) -> FileTree:
        """The dataset's own files, below the root or in its archives."""
        return self._found[0]

    @property
    def folder(self) -> Path:
        """The folder where they, or their archives, lie."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[FileTree, Path]:
        if not self.root.is_dir():
            raise DataError(f"there is no folder {self.root}; set its root to the dataset")
        if found := self.layout.find(self.root):
            return found
        places = ", ".join(place or "itself" for place in self.layout.nested)
        remedy = "set its root to the extracted dataset, or use Folder for images of your own"
        for kind in subclasses(VisionDataModule):
            if kind.layout.marks and kind is not type(self) and kind.layout.find(self.root):
                remedy = f"it looks like {kind.__name__}: use the class {kind.__name__}"
        raise DataError(
            f"{self.root} is not laid out as {type(self).__name__}; expected "
            f"{', '.join(self.layout.marks)} in it (looked in: {places}); {remedy}"
        )

    def samples(self, split: str) -> Samples:
        """The files of a split, listed once.

        Raises:
            DataError: the root is not laid out as it should be, or the split is unknown or empty.
        """
        if found := self._samples.get(split):
            return found
        if split not in self.splits:
            reason = f"{self.dataset_name} has no split {split!r}, only {', '.join(self.splits)}"
            raise DataError(reason, field="split")
        with trying(self, f".scan({split!r})", "data"):
            found = check_listed(self.scan(split), type(self).__qualname__, self.num_classes)
        refuse_pictures(found, split)
        return self._samples.setdefault(split, found)

    def identity(self) -> dict[str, str]:
        """Return what tells the splits that were listed so far from others, by split and part."""
        listed = dict(self._samples)
        if self._masks is not None:
            listed[self.train_split] = replace(listed[self.train_split], masks=self._masks)
        return {
            f"{split} {part}": value
            for split, samples in listed.items()
            for part, value in samples.identity().items()
        }

    def prepare_data(self) -> None:
        """Check the training split before any device is busy."""
        self.samples(self.train_split)

    def setup(self, stage: str) -> None:
        """Check the training split in every process, and set the trainer's accumulation."""
        # for `Trainer.validate`: Lightning would run a validation loop within `fit` as well
        self.__dict__.pop("val_dataloader", None)
        if stage == "validate":
            self.val_dataloader = self.held_out_loader  # type: ignore[method-assign]
        if stage == "fit":
            self.prepare_data()
            if self.trainer:
                set_accumulation(self.trainer, self.batch_layout(self.trainer.world_size))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; samples that do not fill a batch are left out."""
        return len(self.samples(self.train_split)) // self.global_batch_size

    def batch_layout(self, world_size: int) -> BatchLayout:
        """How the global batch is split among devices: the one place where it is decided."""
        return split_global_batch(self.global_batch_size, world_size, self.micro_batch_size)

    def training_dataset(self) -> TrainingDataset:
        """Augmented images of the training split, with their masks where they are used."""
        samples = self.samples(self.train_split)
        return TrainingDataset(samples, self.transform, self.seed, self.max_unreadable, self._masks)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of this rank. Iterating draws nothing from torch's global random numbers."""
        dataset, trainer = self.training_dataset(), self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        accumulate = self.batch_layout(world).accumulate_grad_batches
        sizes = len(dataset), self.global_batch_size, world, rank, accumulate
        batches = GlobalBatchSampler(*sizes, self.seed, self.repeats)
        if trainer:
            resume(batches, trainer)
        return ResumableLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def held_out_loader(self) -> Loader:
        """Images of `val_split` under training's transform, in order."""
        samples = self.samples(self.val_split)
        return Loader(
            TrainingDataset(samples, self.transform, self.seed, self.max_unreadable),
            batch_size=self.micro_batch_size or min(self.global_batch_size, 64),
            sampler=[(0, index) for index in range(len(samples))],
            collate_fn=collate,
            num_workers=self.num_workers,
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Report files that cannot be read, each once; more than `max_unreadable` are an error."""
        files = batch.unreadable if isinstance(batch, Batch) else ()
        for file in (each for each in files if each not in self._unreadable):
            self._unreadable.append(file)
            if len(self._unreadable) > self.max_unreadable:
                raise too_many(self._unreadable, self.max_unreadable)
            warnings.warn(
                f"cannot read {file}; its neighbor takes its place ({len(self._unreadable)} so "
                f"far, {self.max_unreadable} allowed)",
                stacklevel=2,
            )
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize on the device: a byte for each value has traveled, not four."""
        if not isinstance(batch, Batch):
            return batch
        return replace(batch, views=[normalize(stack) for stack in batch.views])

    def use_foreground_masks(self) -> int:
        """Load the objects' masks of training images with them; return their number."""
        self._masks = foreground_masks(self.samples(self.train_split))
        self.transform.crop_foreground(np.ones((64, 64), dtype=bool))
        return int((self._masks != b"").sum())

    def classification_dataset(
        self, split: str, size: int, limit: int = 0, crop: float = 0.875
    ) -> ClassificationDataset:
        """Images and class indices for probes.

        Args:
            split: one of `splits`.
            size: edge of the images, in pixels.
            limit: number of samples, as many of each class; 0 for all.
            crop: share of an image's short side that is seen.
        """
        samples = self.samples(split)
        if samples.labels is None:
            raise DataError(f"{type(self).__name__} has no image labels; use ImageNet or Folder")
        if split == self.train_split and self.val_split in self.splits:
            self.refuse_leak(split)
        return ClassificationDataset(samples.subset(limit), size, self.max_unreadable, crop)

    def segmentation_dataset(
        self, split: str, transform: SegmentationTransform, limit: int = 0
    ) -> SegmentationDataset:
        """Images and masks for dense probes.

        Args:
            split: one of `splits`.
            transform: of both.
            limit: number of samples; 0 for all.
        """
        samples = self.samples(split)
        if samples.masks is None:
            name = type(self).__name__
            raise DataError(f"{name} has no masks; use VOC2012, ADE20K, Cityscapes or Folder")
        if split == self.train_split:
            self.refuse_leak(split)
        return SegmentationDataset(
            *(samples.subset(limit), transform, self.mask_values),
            *(self.max_unreadable, self.seed, self.implausible),
            values_remedy=self.values_remedy,
        )

    def refuse_leak(self, split: str) -> None:
        """Refuse to learn from images of `val_split`, as VOC's trainval against val."""
        if (split, self.val_split) not in self._disjoint:  # a second for a million images
            self.samples(split).refuse_common(self.samples(self.val_split), split, self.val_split)
        self._disjoint.add((split, self.val_split))
