"""Inspection of the files of a split: headers of all with masks, content of all or of a sample."""

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.decode import (
    PIL_ERRORS,
    UnreadableImage,
    decode_image,
    decode_mask,
    orientation_of,
)
from vitlab.data.errors import DataError
from vitlab.data.picture_faults import BLACK
from vitlab.data.profile import LabelProfile
from vitlab.data.samples import Samples, spread
from vitlab.data.storage import FileTree
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.progress import ProgressBar

SAME_KIND = {"jpg": "jpeg", "tif": "tiff", "pgm": "ppm"}  # format of PIL, by ending
BLOCK = 256  # samples submitted at a time
INDICES = ("1", "L", "P", "I", "I;16", "I;16B")  # modes whose values may be class indices


class FileInspection(NamedTuple):
    """Result of one file; what is not known is empty."""

    size: tuple[int, int] | None = None  # width, height of the stored pixels
    unreadable: str = ""  # the file and the reason
    refused: str = ""  # reason, if a mask can be read but holds no class indices
    pixels: Int64[np.ndarray, "256"] | None = None  # of a mask: how many of each value
    orientation: int = 1  # flag of Exif
    black: bool = False  # nearly
    digest: bytes = b""
    oddity: str = ""  # unusual property of a readable image


@dataclass
class SplitSummary:
    """The inspected samples of a split.

    Attributes:
        data: the dataset.
        split: its name.
        samples: the inspected ones.
        faults: files that are "unreadable", masks "refused" as no class indices, pairs "mismatched"
            in size, and masks "implausible" by their values, in words.
        sizes: (width, height) of the images.
        holders: for each value, the masks that hold it.
        masks: number of masks that were decoded.
        pixels: in these masks, of each value.
        orientations: number of images with an orientation flag, by whether the mask has the shape
            of the "stored" picture, the "turned" one, or "either".
        digests: of the images that were decoded, with their names.
        black: number of these that are nearly black.
        oddities: number of images of each.
    """

    data: VisionDataModule
    split: str
    samples: Samples
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: set[tuple[int, int]] = field(default_factory=set)
    holders: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: int = 0
    pixels: Int64[np.ndarray, "256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    orientations: Counter[str] = field(default_factory=Counter)
    black: int = 0
    digests: list[tuple[bytes, str]] = field(default_factory=list)
    oddities: Counter[str] = field(default_factory=Counter)

    def add(self, index: int, image: FileInspection, mask: FileInspection) -> None:
        """Add one sample."""
        name = self.samples.image(index)
        self.faults["unreadable"] += [f.unreadable for f in (image, mask) if f.unreadable]
        if image.size:
            self.sizes.add(image.size)
        if image.digest:
            self.black += image.black
            self.digests.append((image.digest, name))
        if image.oddity:
            self.oddities[image.oddity] += 1
        if mask.refused:
            self.faults["refused"].append(mask.refused)
        if fitting := self._fitting(name, image, mask):
            self.orientations[fitting] += 1
        if mask.pixels is not None:
            self.masks += 1
            self.pixels += mask.pixels
            mask_name, values = self.samples.mask(index), np.flatnonzero(mask.pixels).tolist()
            if reason := self.data.implausible({*values}):
                self.faults["implausible"].append(f"{mask_name} {reason}")
            for value in values:
                self.holders[value].append(mask_name)

    def _fitting(self, name: str, image: FileInspection, mask: FileInspection) -> str:
        """The picture whose shape a mask has; "" without an orientation flag."""
        if not image.size or not mask.size:
            return "stored" if image.orientation > 1 else ""
        turned = image.size[::-1] if image.orientation > 4 else image.size
        shapes = {"stored": image.size, "turned": turned}
        fitting = [each for each, shape in shapes.items() if shape == mask.size]
        if not fitting:
            one, other = ("{} x {}".format(*size) for size in (image.size, mask.size))
            self.faults["mismatched"].append(f"{name} is {one}, its mask {other}")
        if not fitting or image.orientation <= 1:
            return ""
        return fitting[0] if len(fitting) == 1 else "either"

    @property
    def profile(self) -> LabelProfile:
        """The classes that the decoded masks show."""
        table = np.full(256, IGNORE_INDEX)
        table[list(self.data.mask_values)] = list(self.data.mask_values.values())
        counts = np.bincount(table, self.pixels, minlength=256).astype(np.int64)
        classes = counts[: self.data.num_classes]
        return LabelProfile(classes, int(counts[IGNORE_INDEX]), self.masks, len(self.samples))


def inspect(data: VisionDataModule, split: str, samples: Samples, deep: bool) -> SplitSummary:
    """Decode some samples, or with `deep` all; read the headers of the others that have masks."""
    summary, count = SplitSummary(data, split, samples), len(samples)
    decoded = set(range(count)) if deep else set(spread(count))
    indices = list(range(count)) if samples.masks is not None else sorted(decoded)

    def look(index: int) -> tuple[int, FileInspection, FileInspection]:
        readers = (_image, _mask) if index in decoded else (_header, _header)
        image = _inspect(samples.files, samples.image(index), readers[0])
        name = "" if samples.masks is None else samples.mask(index)
        if not name or (index not in decoded and name.endswith(".mat")):
            return index, image, FileInspection()
        return index, image, _inspect(samples.files, name, readers[1])

    bar = ProgressBar(f"reading {split}", len(indices))
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), BLOCK):  # map would queue a million at once
            for found in pool.map(look, indices[start : start + BLOCK]):
                bar.advance()
                summary.add(*found)
    return summary


def _inspect(
    files: FileTree, name: str, read: Callable[[FileTree, str, str], FileInspection]
) -> FileInspection:
    where = files.where(name)
    try:
        return read(files, name, where)
    except DataError as error:
        return FileInspection(refused=str(error))
    except PIL_ERRORS as error:  # of headers
        reason = error.reason if isinstance(error, UnreadableImage) else None
        return FileInspection(
            unreadable=f"{where} ({reason or getattr(error, 'strerror', None) or error})"
        )


def _header(files: FileTree, name: str, where: str) -> FileInspection:
    with files.open(name) as file, Image.open(file) as image:
        refused = "" if image.mode in INDICES else f"{where} is an image of mode {image.mode}"
        return FileInspection(image.size, refused=refused, orientation=orientation_of(image))


def _image(files: FileTree, name: str, where: str) -> FileInspection:
    data = files.read(name)
    pixels = decode_image(data, where)
    orientation, oddity = _oddity(data, name)
    return FileInspection(
        pixels.shape[1::-1],
        orientation=orientation,
        black=int(pixels.max()) < BLACK,
        digest=hashlib.blake2b(data, digest_size=16).digest(),
        oddity=oddity,
    )


def _mask(files: FileTree, name: str, where: str) -> FileInspection:
    mask = decode_mask(files.read(name), where)
    return FileInspection(mask.shape[::-1], pixels=np.bincount(mask.ravel(), minlength=256))


def _oddity(data: bytes, name: str) -> tuple[int, str]:
    """Orientation flag of an image, and a property that some loaders mishandle."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, mode, pages = image.format or "", image.mode, getattr(image, "n_frames", 1)
            orientation = orientation_of(image)
    except PIL_ERRORS:  # such as 16-bit RGB in TIFF
        return 1, ""
    ending, oddity = name.rpartition(".")[2].lower(), ""
    if kind.lower() != SAME_KIND.get(ending, ending):
        oddity = f"{kind} files named .{ending}"
    elif mode == "CMYK":
        oddity = "CMYK images"
    elif kind == "TIFF" and pages > 1:
        oddity = "files of several pages (the first one is taken)"
    return orientation, oddity
