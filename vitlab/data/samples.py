"""The files of one split, as arrays: a million Python strings would be copied into every worker."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped

from vitlab.data.errors import DataError
from vitlab.data.storage import IMAGE_ENDINGS, FileTree, few
from vitlab.terminal import printable

MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".pgm")  # a JPEG changes the values
SAMPLE = 64  # samples looked at where looking at all would take too long
SIZED, READ = 50_000, 256  # files whose sizes, and whose bytes, are part of an identity


@dataclass(frozen=True)
class Samples:
    """Images of one split, with their labels or masks where the dataset has them.

    Attributes:
        files: the tree that all paths start from.
        images: path of each image in it, as bytes. An array of fixed-width bytes takes a
            third of the memory of a list, and forked workers share it without copying.
        labels: class index of each image, or None.
        masks: path of each mask, as bytes, or None.
        left_out: paths of files and folders beside the images that are not read.
    """

    files: FileTree
    images: Shaped[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"] | None = None
    masks: Shaped[np.ndarray, " n"] | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> str:
        """Path of one image in `files`."""
        return os.fsdecode(self.images[index])

    def mask(self, index: int) -> str:
        """Path of one mask in `files`; only for datasets that have them."""
        assert self.masks is not None
        return os.fsdecode(self.masks[index])

    def subset(self, limit: int) -> "Samples":
        """The same `limit` samples every time; where there are labels, as many of each class.

        Samples of a class are drawn by a fixed permutation, so neighbors in the listing (frames
        of one video, say) are not preferred. 0 keeps all.
        """
        if limit < 0:
            raise DataError(
                f"limit {limit} is negative; use 0 for all samples, or a count", field="limit"
            )
        if limit == 0 or limit >= len(self):
            return self
        shuffled = np.random.default_rng(0).permutation(len(self))
        if self.labels is not None:  # one sample of each class in turn
            labels = self.labels[shuffled]
            by_class = np.argsort(labels, kind="stable")
            counts = np.bincount(labels)
            turn = np.empty(len(labels), dtype=np.int64)
            turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
            shuffled = shuffled[np.lexsort((labels, turn))]
        return self.take(np.sort(shuffled[:limit]))

    def take(self, indices: Int64[np.ndarray, " kept"]) -> "Samples":
        """The samples of these indices."""
        labels = None if self.labels is None else self.labels[indices]
        masks = None if self.masks is None else self.masks[indices]
        return Samples(self.files, self.images[indices], labels, masks, self.left_out)

    def identity(self) -> dict[str, str]:
        """Return what tells these samples from others, in milliseconds for each thousand of them.

        The number of images, and hashes of all names and labels in order, of the sizes of up to
        50,000 images spread over them, and of the bytes of up to 256 images and their masks.
        """
        sizes, contents = [], hashlib.sha256()
        for name in self.images[spread(len(self), SIZED)].tolist():
            with suppress(OSError):  # training replaces what it cannot read
                sizes.append(self.files.size(os.fsdecode(name)))
        for index in spread(len(self), READ):
            for names in (self.images, self.masks):
                if names is not None and names[index]:
                    with suppress(OSError):
                        contents.update(self.files.read(os.fsdecode(names[index])))
        hashed = {"names": self.images, "sizes": np.array(sizes), "labels": self.labels}
        found = {name: x.tobytes() for name, x in hashed.items() if x is not None}
        if self.masks is not None:
            found["masks"] = self.masks.tobytes()
        short = {name: hashlib.sha256(x).hexdigest()[:12] for name, x in found.items()}
        return {"images": f"{len(self):,}", **short, "contents": contents.hexdigest()[:12]}

    def refuse_common(self, val: "Samples", split: str, val_split: str) -> None:
        """Refuse to learn from images that are scored."""
        names = map(os.fsdecode, np.intersect1d(self.images, val.images))
        # archives may hold another image of that name for each split
        if common := [name for name in names if self.files.where(name) == val.files.where(name)]:
            raise DataError(
                f"{len(common)} images are in both train_split {split} and val_split {val_split} "
                f"({few(common)}); scores on them would mean nothing: choose splits without common "
                "images",
                field="data.train_split",
            )


def check_listed(found: object, kind: str, classes: int) -> Samples:
    """Return what a dataset's `scan` returned, if that is as it must be.

    Args:
        found: what it returned.
        kind: name of the dataset's class.
        classes: number of classes.

    Raises:
        DataError: no samples, or arrays that are not what `Samples` says.
    """
    if not isinstance(found, Samples):
        raise DataError(
            f"{kind}.scan returned {type(found).__name__}; return vitlab.data.Samples(self.files, "
            "images, labels, masks)",
            field="data",
        )
    problem = ""
    for name, kinds in {"masks": "S", "labels": "iu", "images": "S"}.items():
        x, wanted = getattr(found, name), "bytes" if kinds == "S" else "integers"
        if x is None and name != "images":
            continue
        if not isinstance(x, np.ndarray) or x.ndim != 1 or (x.size and x.dtype.kind not in kinds):
            given = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            problem = f"{name} as {given}; give a numpy array of {wanted}, one for each image"
        elif len(x) != len(found.images):
            problem = f"{len(x)} {name} for {len(found.images)} images; give one for each"
        elif name == "labels" and x.size and not 0 <= x.min() <= x.max() < classes:
            problem = f"labels from {x.min()} to {x.max()} for {classes} classes"
    if problem:
        raise DataError(f"{kind}.scan returned {problem}", field="data")
    return found


def spread(count: int, most: int = SAMPLE) -> list[int]:
    """Up to `most` indices below `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def paths(names: Sequence[str]) -> Shaped[np.ndarray, " n"]:
    """File names as a compact array; undecodable names survive the round trip."""
    return np.array([os.fsencode(name) for name in names])


def masked_samples(
    files: FileTree,
    images: Sequence[str],
    masks: Sequence[str],
    left_out: Sequence[str] = (),
    restore: str = "put them there",
) -> Samples:
    """Images with the masks at the same positions; `restore` is the remedy for missing ones.

    Raises:
        DataError: an image or a mask is missing, or named twice.
    """
    for kind, names in (("images", images), ("masks", masks)):
        if missing := files.absent(names):
            folder = missing[0].rpartition("/")[0]
            raise DataError(
                f"{len(missing)} {kind} missing below {files.where()}: {few(missing)}; "
                f"{folder or 'the folder'} holds {files.describe(folder)}; {restore}, or "
                "take their names off the split",
            )
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(
                f"{len(twice)} {kind} below {files.where()} are named more than once: "
                f"{few(twice)}; a list must name an image once, and images that differ only in "
                "their ending share a mask: remove the others"
            )
    return Samples(files, paths(images), masks=paths(masks), left_out=tuple(left_out))


def mask_folder_samples(files: FileTree, images: str, masks: str) -> Samples:
    """All images of a folder, with the masks of the same names in another one."""
    names, left_out = _images(files, images)
    present = files.require(masks).names
    by_stem = {
        name.rpartition(".")[0]: name
        for ending in reversed(MASK_ENDINGS)
        for name in present
        if name.lower().endswith(ending)
    }
    stems = [name.rpartition(".")[0] for name in names]
    if lacking := [stem for stem in stems if stem not in by_stem]:
        raise DataError(
            f"{len(lacking)} of {len(names)} images in {files.where(images)} have no mask of the "
            f"same name: {few(lacking)}; {masks} holds {files.describe(masks)}, such as "
            f"{few(present)}; name each mask as its image, {masks}/{printable(lacking[0])}.png, "
            f"or remove images without one (endings of masks: {', '.join(MASK_ENDINGS)})"
        )
    return masked_samples(
        files,
        [f"{images}/{name}" for name in names],
        [f"{masks}/{by_stem[stem]}" for stem in stems],
        left_out,
    )


def class_folder_samples(files: FileTree, split: str, classes: tuple[str, ...]) -> Samples:
    """All images of a split that is sorted into class folders.

    Raises:
        DataError: there are no or other classes, one has no image, or masks lie among the images.
    """
    listing = files.require(split)
    refuse_other_classes(listing.folders, classes, files.where(split))
    if not classes:
        raise DataError(
            f"{files.where(split)} has no class folders; it holds {files.describe(split)}; sort "
            "its images into folders, one for each class (a single one will do for training "
            "without labels)",
        )
    images: list[str] = []
    left_out = [f"{split}/{name}" for name in listing.names]
    counts = []
    for name in classes:
        folder = f"{split}/{name}"
        names, others = _images(files, folder)
        if not names:
            raise DataError(
                f"class folder {files.where(folder)} holds no image directly in it; it "
                f"holds {files.describe(folder)} (endings of images: {', '.join(IMAGE_ENDINGS)}); "
                "move images up, or remove the folder",
            )
        images += [f"{folder}/{image}" for image in names]
        left_out += others
        counts.append(len(names))
    labels = np.repeat(np.arange(len(classes)), counts)
    return Samples(files, paths(images), labels, left_out=tuple(left_out))


def _images(files: FileTree, folder: str) -> tuple[list[str], list[str]]:
    """Names of the images directly in a folder, and paths of what else lies there."""
    folders, names = files.require(folder)
    images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
    others = sorted({*names}.difference(images)) if len(names) > len(images) else []
    return images, [f"{folder}/{name}" for name in others + folders]


def refuse_other_classes(found: Sequence[str], classes: Sequence[str], folder: str) -> None:
    """Refuse a split of other classes than the training split's."""
    extra, lacking = sorted({*found} - {*classes}), sorted({*classes} - {*found})
    if extra or lacking:
        raise DataError(
            f"{folder} and the training split hold different classes; only in {folder}: "
            f"{few(extra)}; only in training: {few(lacking)}; both must hold the same ones"
        )
