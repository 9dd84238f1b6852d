"""Datasets: augmented views for training, plain images or images with masks for evaluation."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data.batch import Example
from vitlab.data.decode import UnreadableImage, decode_image, decode_mask
from vitlab.data.errors import DataError
from vitlab.data.foreground import decode_foreground
from vitlab.data.samples import Samples, spread
from vitlab.data.storage import FileTree, ranges
from vitlab.data.transforms import (
    IGNORE_INDEX,
    CenterCrop,
    Foreground,
    ImageAndMask,
    Mask,
    Pixels,
    SegmentationTransform,
    Transform,
    resize_nearest,
)

Read = TypeVar("Read")


class TrainingDataset(Dataset[Example]):
    """Augmented images. Sample i in epoch e is a function of (seed, e, i) only.

    Where samples are repeated, copy c of it is one of (seed, e, i, c).

    Args:
        samples: the files.
        transform: of an image into views.
        seed: of the augmentation.
        patience: consecutive unreadable files after which an error is raised.
        masks: path of the mask of each image's object, empty where it has none; or None.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Transform,
        seed: int,
        patience: int,
        masks: Shaped[np.ndarray, " n"] | None = None,
    ):
        self.samples, self.transform, self.seed, self.patience = samples, transform, seed, patience
        self.masks = masks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, ...]) -> Example:
        """Sample `place` = (epoch, index[, copy]), or the next readable one in index order."""
        found, (image, mask), unreadable = first_readable(
            self._read, place[1], len(self), self.patience
        )
        labels = self.samples.labels
        # the seed of the sample that was asked for: its replacement may be in the batch too
        seed = (self.seed, *place)
        views = self.transform(image, seed)
        foreground = None
        if mask is not None:
            foreground = self.transform.crop_foreground(mask, seed)
        elif self.masks is not None:
            foreground = torch.ones(views[0].shape[-2:], dtype=torch.bool)
        return Example(
            views, None if labels is None else int(labels[found]), unreadable, foreground
        )

    def _read(self, index: int) -> tuple[Pixels, Foreground | None]:
        files = self.samples.files
        image = _read(decode_image, files, self.samples.image(index), self.transform.min_size)
        name = "" if self.masks is None else os.fsdecode(self.masks[index])
        if not name:
            return image, None
        mask = _read(decode_foreground, files, name)
        # the image may be decoded at a part of its size
        parts = [tuple(-(-edge // divisor) for edge in mask.shape) for divisor in (1, 2, 4, 8)]
        if image.shape[:2] not in parts and image.shape[1::-1] in parts:  # by its orientation flag
            turned = self.samples.image(index), self.transform.min_size, True
            image = _read(decode_image, files, *turned)
        if image.shape[:2] not in parts:
            raise DataError(
                f"mask {files.where(name)} is {mask.shape[1]} x {mask.shape[0]} (width x height), "
                "and its image is of another size or shape; make the mask for the image as it is"
            )
        return image, resize_nearest(mask, *image.shape[:2])


class ClassificationDataset(Dataset[tuple[Tensor, int]]):
    """Image (3, size, size) by `CenterCrop`, and its class index.

    An unreadable image is reported, and the next readable one takes its place with its own label.

    Args:
        samples: the files.
        size: edge of the images, in pixels.
        patience: consecutive unreadable files after which an error is raised.
        crop: share of the image's short side that is seen.
    """

    def __init__(self, samples: Samples, size: int, patience: int = 0, crop: float = 0.875):
        assert samples.labels is not None
        self.samples, self.labels = samples, samples.labels
        self.transform, self.patience = CenterCrop(size, crop), patience

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 size size"], int]:
        found, image, unreadable = first_readable(self._read, index, len(self), self.patience)
        warn_unreadable(unreadable)
        return self.transform(image)[0][0], int(self.labels[found])

    def _read(self, index: int) -> Pixels:
        return _read(decode_image, self.samples.files, self.samples.image(index))


class SegmentationDataset(Dataset[ImageAndMask]):
    """Image and mask by a transform of both; 255 in a mask is ignored.

    Sample i in epoch e is a function of (seed, e, i) only; an index alone means epoch 0.

    Args:
        samples: the files.
        transform: of an image and its mask.
        mask_values: class index, or 255, of each value that a mask file may hold.
        patience: consecutive unreadable pairs after which an error is raised.
        seed: of the transform.
        implausible: see `VisionDataModule.implausible`.
        values_remedy: what to do about masks of other values.
    """

    def __init__(
        self,
        samples: Samples,
        transform: SegmentationTransform,
        mask_values: dict[int, int],
        patience: int = 0,
        seed: int = 0,
        implausible: Callable[[set[int]], str] | None = None,
        values_remedy: str = "",
    ):
        self.samples, self.transform, self.values_remedy = samples, transform, values_remedy
        self.table = np.full(256, -1, dtype=np.int16)  # -1 for values that are not allowed
        self.table[list(mask_values)] = list(mask_values.values())
        self.patience, self.seed, self.implausible = patience, seed, implausible

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int | tuple[int, int]) -> ImageAndMask:
        epoch, index = place if isinstance(place, tuple) else (0, place)
        _, (image, _, classes), unreadable = first_readable(
            self._read, index, len(self), self.patience
        )
        warn_unreadable(unreadable)
        return self.transform(image, classes, (self.seed, epoch, index))

    def check(self) -> tuple[Int64[np.ndarray, "256"], int]:
        """Read up to 64 pairs that are spread over the set, and more masks if these show one class.

        Returns:
            Pixels of each class (255: void) in the masks that were read, and how many these are.
        """
        pixels, looked = np.zeros(256, np.int64), spread(len(self))
        for index in looked:
            with suppress(UnreadableImage):  # reported and replaced when it is its turn
                _, mask, classes = self._read(index)
                if self.implausible and (reason := self.implausible(set(np.unique(mask).tolist()))):
                    where = self.samples.files.where(self.samples.mask(index))
                    raise DataError(f"mask {where} {reason}")
                pixels += np.bincount(classes.ravel(), minlength=256)
        count = len(looked)
        for index in sorted({*range(len(self))} - {*looked}):
            if np.count_nonzero(pixels[:IGNORE_INDEX]) > 1:
                break
            count += 1
            with suppress(UnreadableImage):
                pixels += np.bincount(self._read_mask(index)[1].ravel(), minlength=256)
        return pixels, count

    def _read(self, index: int) -> tuple[Pixels, Mask, Mask]:
        """The image, the mask with the values of its file, and with classes in their place.

        The image is turned by its orientation flag where the mask is of that shape alone.
        """
        files, name = self.samples.files, self.samples.image(index)
        image, (mask, classes) = _read(decode_image, files, name), self._read_mask(index)
        if image.shape[:2] != mask.shape == image.shape[1::-1]:
            image = _read(decode_image, files, name, (0, 0), True)
        if image.shape[:2] != mask.shape:
            height, width = image.shape[:2]
            raise DataError(
                f"image {files.where(name)} is {width} x {height} but its mask "
                f"{files.where(self.samples.mask(index))} is {mask.shape[1]} x {mask.shape[0]} "
                "(width x height); the two must agree: restore both, or make the mask anew"
            )
        return image, mask, classes

    def _read_mask(self, index: int) -> tuple[Mask, Mask]:
        """The mask with the values of its file, and with classes in their place."""
        files, name = self.samples.files, self.samples.mask(index)
        mask = _read(decode_mask, files, name)
        classes = self.table[mask]
        if (classes < 0).any():
            raise DataError(
                f"mask {files.where(name)} holds {np.unique(mask[classes < 0])[:5].tolist()}; "
                f"allowed are {ranges(np.flatnonzero(self.table >= 0).tolist())}; "
                f"{self.values_remedy}"
            )
        return mask, classes.astype(np.uint8)


def first_readable(
    read: Callable[[int], Read], index: int, count: int, patience: int
) -> tuple[int, Read, tuple[str, ...]]:
    """Read the sample of that index, or the next readable one of `count` in index order.

    Returns:
        Its index, its content, and the files before it that cannot be read.
    """
    unreadable: list[str] = []
    for step in range(min(patience + 1, count)):
        found = (index + step) % count
        try:
            return found, read(found), tuple(unreadable)
        except UnreadableImage as error:
            unreadable.append(f"{error.path} ({error.reason})")
    raise too_many(unreadable, patience)


def warn_unreadable(unreadable: tuple[str, ...]) -> None:
    """Report files that a probe could not read."""
    if unreadable:
        warnings.warn(
            f"cannot read {', '.join(unreadable)}; a neighbor takes its place", stacklevel=3
        )


def too_many(unreadable: list[str], allowed: int) -> DataError:
    """Error of a run with more damaged files than allowed."""
    return DataError(
        f"{len(unreadable)} images cannot be read, and {allowed} may be so (only training takes "
        "another in their place, up to data.max_unreadable); replace or remove them:\n  "
        + "\n  ".join(unreadable),
        field="data.max_unreadable",
    )


def _read(decode: Callable[..., Read], files: FileTree, name: str, *settings: object) -> Read:
    """A file of a tree, decoded."""
    where = files.where(name)
    try:
        data = files.read(name)
    except OSError as error:
        raise UnreadableImage(where, error.strerror or str(error)) from error
    return decode(data, where, *settings)
