"""CIFAR-10 and CIFAR-100 from their original files, the Python version, extracted or not.

"Learning Multiple Layers of Features from Tiny Images" (Krizhevsky, 2009). The files are pickles,
read by `unpickling.py` without running anything that they name.
"""

import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.datasets.unpickling import Array, unpickled
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, paths
from vitlab.data.storage import FileTree, Found, Layout, Listing

EDGE = 32  # pixels
ROW = 3 * EDGE * EDGE  # bytes of an image: all red, then all green, then all blue


@dataclass(frozen=True)
class OneArchive(Layout):
    """Files that may also be read from the .tar.gz that they come in.

    Attributes:
        name: of the archive.
    """

    name: str = ""

    def find(self, root: Path) -> Found | None:
        """The files, extracted or, where they are not, in their archive."""
        found, packed = super().find(root), root / self.name
        return Found(Unpacked(packed), root) if found is None and packed.is_file() else found


class CIFAR10(VisionDataModule):
    """50,000 training and 10,000 test images of 10 classes, 32 x 32 pixels; the test set is `val`.

    The root holds `cifar-10-batches-py` or `cifar-10-python.tar.gz`, or is the folder itself.
    """

    counts = {"train": 50_000, "val": 10_000}  # noqa: RUF012
    layout = OneArchive(
        ("data_batch_1", "test_batch"), ("", "cifar-10-batches-py"), name="cifar-10-python.tar.gz"
    )
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "val": ("test_batch",),
    }
    labels: ClassVar[str] = "labels"
    names: ClassVar[tuple[str, str]] = ("batches.meta", "label_names")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        file, key = self.names
        found = self._content(file).get(key)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise DataError(f"{self.files.where(file)} names no classes as {key}; {_AGAIN}")
        return tuple(found)

    def scan(self, split: str) -> Samples:
        """All images of a split."""
        pixels, labels = [], []
        for file in self.parts[split]:
            content, where = self._content(file), self.files.where(file)
            images, given = content.get("data"), content.get(self.labels)
            if not isinstance(images, Array) or not isinstance(given, list):
                raise DataError(f"{where} holds no data and {self.labels}; {_AGAIN}")
            pixels.append(images.values(ROW, where))
            labels += given
            if len(pixels[-1]) != len(given):
                raise DataError(
                    f"{where} holds {len(pixels[-1])} images and {len(given)} "
                    f"{self.labels}; {_AGAIN}"
                )
        count = len(self.classes)
        if not all(type(label) is int and 0 <= label < count for label in labels):
            raise DataError(
                f"the {self.labels} of {split} in {self.files.where()} are not all indices of the "
                f"{count} classes; {_AGAIN}"
            )
        pictures = Pictures(np.concatenate(pixels), split, self.files.where())
        names = [f"{index:05d}.ppm" for index in range(len(labels))]
        return Samples(pictures, paths(names), np.array(labels, dtype=np.int64))

    def _content(self, file: str) -> dict[str, Any]:
        where = self.files.where(file)
        try:
            data = self.files.read(file)
        except OSError as error:
            raise DataError(f"cannot read {where}: {error.strerror or error}; {_AGAIN}") from error
        found = unpickled(data, where)
        if not isinstance(found, dict):
            raise DataError(f"{where} holds a {type(found).__name__}, no dictionary; {_AGAIN}")
        return found


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 100 classes, the fine ones; the test set is `val`.

    The root holds `cifar-100-python` or `cifar-100-python.tar.gz`, or is the folder itself.
    """

    layout = OneArchive(
        ("train", "test", "meta"), ("", "cifar-100-python"), name="cifar-100-python.tar.gz"
    )
    parts = {"train": ("train",), "val": ("test",)}  # noqa: RUF012
    labels = "fine_labels"
    names = ("meta", "fine_label_names")


_AGAIN = "download the Python version again"


class Pictures(FileTree):
    """Images in memory, as files of a format without compression.

    Args:
        pixels: each as in CIFAR's files.
        split: of which they are.
        place: where they came from, for people.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "n values"], split: str, place: str):
        self.pixels, self.split, self.place = pixels, split, place

    def listing(self, place: str = "") -> Listing | None:
        """All of them."""
        return None if place else Listing([], [f"{i:05d}.ppm" for i in range(len(self.pixels))])

    def has(self, path: str) -> bool:
        """Whether there is an image of that name."""
        stem, _, ending = path.partition(".")
        return ending == "ppm" and stem.isdigit() and int(stem) < len(self.pixels)

    def open(self, name: str) -> BytesIO:
        """An image as a PPM file."""
        if not self.has(name):
            raise FileNotFoundError(2, "No such image", self.where(name))
        image = self.pixels[int(name.partition(".")[0])].reshape(3, EDGE, EDGE)
        return BytesIO(b"P6 %d %d 255\n" % (EDGE, EDGE) + image.transpose(1, 2, 0).tobytes())

    def where(self, name: str = "") -> str:
        """The place, and the number of the image in the split."""
        return f"{self.place}: {self.split} {name}" if name else self.place

    def below(self, place: str) -> "Pictures":
        """There are no folders."""
        assert not place
        return self

    def remember(self) -> None:
        """Nothing: they are in memory."""


class Unpacked(FileTree):
    """The few files of a tar.gz, read once into memory.

    Args:
        archive: whose files lie in one folder, which is the top here.
    """

    def __init__(self, archive: Path):
        self.archive = archive
        self.contents: dict[str, bytes] = {}
        try:
            with tarfile.open(archive, "r:gz") as packed:
                for member in packed:
                    file = packed.extractfile(member) if member.isreg() else None
                    if file is not None:
                        self.contents[member.name.rpartition("/")[2]] = file.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} is no whole archive ({error}); {_AGAIN}") from error

    def listing(self, place: str = "") -> Listing | None:
        """All files."""
        return None if place else Listing([], sorted(self.contents))

    def has(self, path: str) -> bool:
        """Whether there is a file of that name."""
        return path in self.contents

    def open(self, name: str) -> BytesIO:
        """A file."""
        if name not in self.contents:
            raise FileNotFoundError(2, "No such member", self.where(name))
        return BytesIO(self.contents[name])

    def where(self, name: str = "") -> str:
        """The archive, and the name in it."""
        return f"{self.archive}:{name}" if name else str(self.archive)

    def below(self, place: str) -> "Unpacked":
        """There are no folders."""
        assert not place
        return self

    def remember(self) -> None:
        """Nothing: they are in memory."""
