"""Looking at the files of a split: at all of them, or at some that are spread over it."""

import hashlib
import io
import os
from collections.abc import Iterator
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

BLOCK = 256  # files that are under way at a time
INDICES = ("1", "L", "P")  # modes of an image whose values are class indices


@dataclass(frozen=True)
class FileInspection:
    """What one file showed.

    Attributes:
        size: (width, height), or None if it cannot be read.
        unreadable: the file and the reason, if it cannot be read.
        refused: why a mask that can be read holds no class indices.
        values: that a mask holds; empty if it was not decoded.
        digest: of the bytes; b"" if they were not read.
        oddity: what is unusual about an image that can be read.
    """

    size: tuple[int, int] | None = None
    unreadable: str = ""
    refused: str = ""
    values: frozenset[int] = frozenset()
    digest: bytes = b""
    oddity: str = ""


@dataclass(frozen=True)
class SampleInspection:
    """What one sample showed: its image, and its mask where there are masks."""

    index: int
    image: FileInspection
    mask: FileInspection = FileInspection()


def inspect(samples: Samples, deep: bool, what: str) -> Iterator[SampleInspection]:
    """Decode some samples, or with `deep` all; of the others with masks, read the headers.

    Args:
        samples: the files.
        deep: whether to decode all.
        what: for the progress bar.
    """
    count = len(samples)
    decoded = set(range(count)) if deep else set(spread(count))
    indices = list(range(count)) if samples.masks is not None else sorted(decoded)
    look = partial(_look, samples, decoded)
    progress = Progress(console=Console(stderr=True), transient=True)
    with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task(what, total=len(indices))
        for start in range(0, len(indices), BLOCK):  # map would queue a million at once
            for found in pool.map(look, indices[start : start + BLOCK]):
                progress.advance(task)
                yield found


def _look(samples: Samples, decoded: set[int], index: int) -> SampleInspection:
    files, whole = samples.files, index in decoded
    image = _see(files, samples.image(index), _decoded_image if whole else _header)
    if samples.masks is None:
        return SampleInspection(index, image)
    name = samples.mask(index)
    if not whole and name.endswith(".mat"):
        return SampleInspection(index, image)
    return SampleInspection(index, image, _see(files, name, _decoded_mask if whole else _header))


def _see(files: FileTree, name: str, look) -> FileInspection:
    where = files.where(name)
    try:
        return look(files, name, where)
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
    """What other loaders stumble over."""
    with Image.open(io.BytesIO(data)) as image:
        kind, mode, turned = image.format or "", image.mode, image.getexif().get(ORIENTATION, 1) > 1
    ending = name.rpartition(".")[2].lower()
    if kind.lower() != {"jpg": "jpeg"}.get(ending, ending):
        return f"{kind} files named .{ending}"
    if mode == "CMYK":
        return "CMYK images"
    return "images turned by their EXIF flag" if turned else ""
