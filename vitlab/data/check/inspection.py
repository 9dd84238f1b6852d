"""Inspection of files: headers of all with masks, content of all or of a sample."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from vitlab.data.decode import ORIENTATION, UnreadableImage, decode_image, decode_mask
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, spread
from vitlab.data.storage import FileTree

BLOCK = 256  # samples submitted at a time
Reader = Callable[[FileTree, str, str], "FileInspection"]
INDICES = ("1", "L", "P")  # modes of an image whose values are class indices


@dataclass(frozen=True)
class FileInspection:
    """Result of one file.

    Attributes:
        size: (width, height), or None if it cannot be read.
        unreadable: the file and the reason, if it cannot be read.
        refused: reason, if a mask can be read but holds no class indices.
        values: of a mask; empty if it was not decoded.
        digest: of the bytes; b"" if they were not read.
        oddity: unusual property of a readable image.
    """

    size: tuple[int, int] | None = None
    unreadable: str = ""
    refused: str = ""
    values: frozenset[int] = frozenset()
    digest: bytes = b""
    oddity: str = ""


@dataclass(frozen=True)
class SampleInspection:
    """Result of one sample: its image, and its mask if it has one."""

    index: int
    image: FileInspection
    mask: FileInspection = FileInspection()


def inspect(samples: Samples, deep: bool, description: str) -> Iterator[SampleInspection]:
    """Decode some samples, or with `deep` all; read the headers of the others that have masks."""
    count = len(samples)
    decoded = set(range(count)) if deep else set(spread(count))
    indices = list(range(count)) if samples.masks is not None else sorted(decoded)
    work = partial(_inspect_sample, samples, decoded)
    progress = Progress(console=Console(stderr=True), transient=True)
    with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task(description, total=len(indices))
        for start in range(0, len(indices), BLOCK):  # map would queue a million at once
            for result in pool.map(work, indices[start : start + BLOCK]):
                progress.advance(task)
                yield result


def _inspect_sample(samples: Samples, decoded: set[int], index: int) -> SampleInspection:
    files, whole = samples.files, index in decoded
    image = _inspect_file(files, samples.image(index), _decoded_image if whole else _header)
    if samples.masks is None:
        return SampleInspection(index, image)
    name = samples.mask(index)
    if not whole and name.endswith(".mat"):
        return SampleInspection(index, image)
    return SampleInspection(
        index, image, _inspect_file(files, name, _decoded_mask if whole else _header)
    )


def _inspect_file(files: FileTree, name: str, read: Reader) -> FileInspection:
    where = files.where(name)
    try:
        return read(files, name, where)
    except UnreadableImage as error:
        return FileInspection(unreadable=f"{where} ({error.reason})")
    except DataError as error:
        return FileInspection(refused=str(error))
    except (OSError, SyntaxError, ValueError) as error:  # PIL's, of headers
        reason = getattr(error, "strerror", None) or error
        return FileInspection(unreadable=f"{where} ({reason})")


def _header(files: FileTree, name: str, where: str) -> FileInspection:
    with files.open(name) as file, Image.open(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        refused = "" if image.mode in INDICES else f"{where} is an image of mode {image.mode}"
        return FileInspection(image.size[::-1] if turned else image.size, refused=refused)


def _decoded_image(files: FileTree, name: str, where: str) -> FileInspection:
    data = files.read(name)
    height, width = decode_image(data, where).shape[:2]
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return FileInspection((width, height), digest=digest, oddity=_oddity(data, name))


def _decoded_mask(files: FileTree, name: str, where: str) -> FileInspection:
    mask = decode_mask(files.read(name), where)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    return FileInspection(mask.shape[::-1], values=frozenset(values.tolist()))


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
