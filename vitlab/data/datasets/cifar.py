"""CIFAR-10 and CIFAR-100 from their original files, the Python version, extracted or not.

"Learning Multiple Layers of Features from Tiny Images" (Krizhevsky, 2009). The files are pickles,
of which only numbers, texts and numpy arrays are read.
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, paths
from vitlab.data.storage import Layout, MemoryTree

EDGE = 32  # pixels
ROW = 3 * EDGE * EDGE  # bytes of an image: all red, then all green, then all blue


class CIFAR10(VisionDataModule):
    """50,000 training and 10,000 test images of 10 classes, 32 x 32 pixels; the test set is `val`.

    The root holds `cifar-10-batches-py` or `cifar-10-python.tar.gz`, or is the folder itself.
    """

    counts = {"train": 50_000, "val": 10_000}  # noqa: RUF012
    layout = Layout(
        marks=("data_batch_1", "test_batch"),
        nested=("", "cifar-10-batches-py"),
        small_archive="cifar-10-python.tar.gz",
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
            raise self._error(file, f"names no classes as {key}")
        return tuple(found)

    def scan(self, split: str) -> Samples:
        """All images of a split."""
        pixels, labels, count = [], [], len(self.classes)
        for file in self.parts[split]:
            content = self._content(file)
            images, given = content.get("data"), content.get(self.labels)
            if not isinstance(images, np.ndarray) or not isinstance(given, list):
                raise self._error(file, f"holds no data and {self.labels}")
            if images.dtype != np.uint8 or images.shape != (len(given), ROW):
                raise self._error(
                    file,
                    f"holds {images.dtype} of shape {images.shape} and {len(given)} labels, not "
                    f"8-bit rows of {ROW} values and a label for each",
                )
            if not all(type(label) is int and 0 <= label < count for label in given):
                raise self._error(file, f"holds {self.labels} that are no classes of {count}")
            pixels.append(images)
            labels += given
        images = PPMImages(np.concatenate(pixels))
        files = MemoryTree(images, f"{self.files.where()}: {split} ")
        return Samples(files, paths(sorted(images)), np.array(labels, dtype=np.int64))

    def _content(self, file: str) -> dict[str, Any]:
        try:
            found = unpickled(self.files.read(file))
        except OSError as error:
            raise self._error(file, f"cannot be read: {error.strerror or error}") from error
        except Exception as error:  # a damaged pickle can fail in any way
            raise self._error(
                file,
                "is refused: it is damaged, or holds more than numbers, texts and arrays "
                f"({error or type(error).__name__})",
            ) from error
        if not isinstance(found, dict):
            raise self._error(file, f"holds a {type(found).__name__}, no dictionary")
        return found

    def _error(self, file: str, fault: str) -> DataError:
        return DataError(
            f"{self.files.where(file)} {fault}; download the Python version again", field=file
        )


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 100 classes, the fine ones; the test set is `val`.

    The root holds `cifar-100-python` or `cifar-100-python.tar.gz`, or is the folder itself.
    """

    layout = Layout(
        marks=("train", "test", "meta"),
        nested=("", "cifar-100-python"),
        small_archive="cifar-100-python.tar.gz",
    )
    parts = {"train": ("train",), "val": ("test",)}  # noqa: RUF012
    labels = "fine_labels"
    names = ("meta", "fine_label_names")


@dataclass(frozen=True)
class PPMImages(Mapping[str, bytes]):
    """Rows of CIFAR's files as files of a format without compression, 00000.ppm and so on."""

    pixels: UInt8[np.ndarray, "n values"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[str]:
        return (f"{index:05d}.ppm" for index in range(len(self.pixels)))

    def __getitem__(self, name: str) -> bytes:
        stem, _, ending = name.partition(".")
        if ending != "ppm" or not stem.isdigit() or int(stem) >= len(self.pixels):
            raise KeyError(name)
        image = self.pixels[int(stem)].reshape(3, EDGE, EDGE)
        return b"P6 %d %d 255\n" % (EDGE, EDGE) + image.transpose(1, 2, 0).tobytes()


def unpickled(data: bytes) -> object:
    """Content of a pickle of Python 2 or 3; nothing that it names is run but numpy's arrays."""
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *_: np.ndarray((0,), np.uint8)  # the pickle sets its content then
            case "numpy", "ndarray":
                return None  # only an argument of _reconstruct
            case "numpy", "dtype":
                return np.dtype
            case "_codecs", "encode":  # how Python 3 writes bytes for Python 2
                return _latin1
        raise pickle.UnpicklingError(f"names {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encodes as {encoding}")
    return text.encode("latin1")
