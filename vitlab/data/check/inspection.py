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
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.decode import ORIENTATION, UnreadableImage, decode_image, decode_mask
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, spread
from vitlab.data.storage import FileTree

BLOCK = 256  # samples submitted at a time
INDICES = ("1", "L", "P")  # modes of an image whose values are class indices


class FileInspection(NamedTuple):
    """Result of one file; what is not known is empty."""

    size: tuple[int, int] | None = None  # width, height
    unreadable: str = ""  # the file and the reason
    refused: str = ""  # reason, if a mask can be read but holds no class indices
    values: tuple[int, ...] = ()  # of a mask
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
        digests: of images, with their names.
        oddities: number of images of each.
    """

    data: VisionDataModule
    split: str
    samples: Samples
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: set[tuple[int, int]] = field(default_factory=set)
    holders: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: int = 0
    digests: list[tuple[bytes, str]] = field(default_factory=list)
    oddities: Counter[str] = field(default_factory=Counter)

    def add(self, index: int, image: FileInspection, mask: FileInspection) -> None:
        """Add one sample."""
        name = self.samples.image(index)
        self.faults["unreadable"] += [f.unreadable for f in (image, mask) if f.unreadable]
        if image.size:
            self.sizes.add(image.size)
        if image.digest:
            self.digests.append((image.digest, name))
        if image.oddity:
            self.oddities[image.oddity] += 1
        if mask.refused:
            self.faults["refused"].append(mask.refused)
        if image.size and mask.size and image.size != mask.size:
            one, other = ("{} x {}".format(*size) for size in (image.size, mask.size))
            self.faults["mismatched"].append(f"{name} is {one}, its mask {other}")
        if mask.values:
            self.masks += 1
            mask_name = self.samples.mask(index)
            if reason := self.data.implausible(set(mask.values)):
                self.faults["implausible"].append(f"{mask_name} {reason}")
            for value in mask.values:
                self.holders[value].append(mask_name)


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

    progress = Progress(console=Console(stderr=True), transient=True)
    with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task(f"reading {split}", total=len(indices))
        for start in range(0, len(indices), BLOCK):  # map would queue a million at once
            for found in pool.map(look, indices[start : start + BLOCK]):
                progress.advance(task)
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
    except (OSError, SyntaxError, ValueError) as error:  # PIL's, of headers
        reason = error.reason if isinstance(error, UnreadableImage) else None
        return FileInspection(
            unreadable=f"{where} ({reason or getattr(error, 'strerror', None) or error})"
        )


def _header(files: FileTree, name: str, where: str) -> FileInspection:
    with files.open(name) as file, Image.open(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        refused = "" if image.mode in INDICES else f"{where} is an image of mode {image.mode}"
        return FileInspection(image.size[::-1] if turned else image.size, refused=refused)


def _image(files: FileTree, name: str, where: str) -> FileInspection:
    data = files.read(name)
    height, width = decode_image(data, where).shape[:2]
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return FileInspection((width, height), digest=digest, oddity=_oddity(data, name))


def _mask(files: FileTree, name: str, where: str) -> FileInspection:
    mask = decode_mask(files.read(name), where)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    return FileInspection(mask.shape[::-1], values=tuple(values))


def _oddity(data: bytes, name: str) -> str:
    """Property that some loaders mishandle."""
    with Image.open(io.BytesIO(data)) as image:
        kind, mode, turned = image.format or "", image.mode, image.getexif().get(ORIENTATION, 1) > 1
    ending = name.rpartition(".")[2].lower()
    if kind.lower() != {"jpg": "jpeg"}.get(ending, ending):
        return f"{kind} files named .{ending}"
    if mode == "CMYK":
        return "CMYK images"
    return "images turned by their EXIF flag" if turned else ""
