"""Arrays out of pickles of others, without running anything that the pickle names."""

import io
import pickle

import numpy as np
from jaxtyping import UInt8

from vitlab.data.errors import DataError

_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {(module, "_reconstruct") for module in _ARRAYS} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
}


class Array:
    """What a pickle says of a numpy array; numpy itself takes no part in reading it."""

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def values(self, width: int, where: str) -> UInt8[np.ndarray, "n values"]:
        """Return rows of bytes.

        Raises:
            DataError: it is of another type or shape, or cut.
        """
        match getattr(self, "state", None):
            case (
                int(),
                (int(rows), int(found)),
                Kind(name="u1"),
                False | 0,
                str() | bytes() as raw,
            ):
                data = raw.encode("latin1") if isinstance(raw, str) else raw
                if found == width and rows * found == len(data):
                    return np.frombuffer(data, np.uint8).reshape(rows, found)
        raise DataError(
            f"{where} holds an array that is not of 8-bit rows of {width} values; download it again"
        )


class Kind:
    """What a pickle says of numpy's type of an array."""

    __slots__ = ("name", "state")

    def __init__(self, name: object):
        self.name = name

    def __setstate__(self, state: object) -> None:
        self.state = state


class Named:
    """Stands for a function or class that a pickle names; calling it makes a description."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"changes {self.name}")

    def __call__(self, *given: object) -> object:
        """Return what takes the place of the result."""
        match self.name, given:
            case "_reconstruct", _:
                return Array()
            case "dtype", (name, *_):
                return Kind(name)
            case "encode", (str() as text, "latin1"):
                return text.encode("latin1")
        raise pickle.UnpicklingError(f"calls {self.name} in an unusual way")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Named:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return Named(name)


def unpickled(data: bytes, where: str) -> object:
    """Return what a pickle of Python 2 or 3 holds, its arrays as `Array`.

    Args:
        data: the pickle.
        where: its place, for messages.

    Raises:
        DataError: it is damaged, or names anything but arrays.
    """
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    # a damaged pickle can fail in any way
    except Exception as error:
        raise DataError(
            f"{where} is refused: it is damaged, or holds more than numbers, texts and arrays "
            f"({error or type(error).__name__}); download it again"
        ) from error
