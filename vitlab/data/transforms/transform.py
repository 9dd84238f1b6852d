"""`Transform`: an image to stacks of crops; and checks of settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from vitlab.errors import InputError

Pixels = UInt8[np.ndarray, "height width 3"]
Foreground = Bool[np.ndarray, "height width"]  # true where an image shows its object
Seed = int | Sequence[int]
# crops of one size: (crops, 3, size, size); no names, since the stacks of a list differ in them
Stack = UInt8[Tensor, "_ 3 _ _"]


class Transform(ABC):
    """Turns one image into stacks of crops, one stack for each resolution, the largest first.

    Attributes:
        size: edge of the first stack's crops, in pixels.
        min_size: height and width in pixels to which a larger image may be reduced when it is
            decoded; (0, 0) means that it may not. Otherwise no crop of the reduced image is
            enlarged to its size; its pixels differ a little from those of the whole image's crop.
    """

    size: int
    min_size: tuple[int, int] = 0, 0

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """Count and edge length in pixels of the crops of each stack: one crop by default."""
        return [(1, self.size)]

    @abstractmethod
    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """Crops of an RGB image, still in 8 bits: `normalize` is for the device that uses them.

        Args:
            image: RGB.
            seed: non-negative; the same image and seed give the same crops to the bit.
        """

    def crop_foreground(self, mask: Foreground, seed: Seed = 0) -> Bool[Tensor, "size size"]:
        """Where the first crop of an image of this mask, with this seed, shows the object.

        Raises:
            InputError: this transform has no such crop.
        """
        raise InputError(
            f"{type(self).__name__} cannot crop masks with their images; use data.transform "
            "AugmentedCrop, or leave masks out",
            field="data.transform",
        )


def refuse(wrong: bool, name: str, value: object, message: str) -> None:
    """Refuse the value of a setting; the message goes on behind the two."""
    if wrong:
        raise InputError(f"{name} {value} {message}", field=name)


def check_size(name: str, size: int) -> None:
    """Refuse a length that is not positive."""
    refuse(size <= 0, name, size, "is not a length; use a positive number of pixels")


def check_range(name: str, values: tuple[float, float], high: float) -> None:
    """Refuse two numbers that are not a range within (0, high], or (0, inf) if high is inf."""
    wrong = len(values) != 2 or not 0 < values[0] <= values[1] <= high or np.isinf(values[1])
    within = f"in (0, {high:g}]" if np.isfinite(high) else "above 0"
    message = f"is not a range; use two numbers {within}, the smaller first"
    refuse(bool(wrong), name, tuple(values), message)


def check_probability(name: str, value: float) -> None:
    """Refuse what is neither a probability nor a strength."""
    refuse(not 0 <= value <= 1, name, value, "is not between 0 and 1; 0 leaves it out")
