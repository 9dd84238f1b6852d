"""What one image becomes: the contract of all views, and checks of their settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

Pixels = UInt8[np.ndarray, "height width 3"]
Shown = Bool[np.ndarray, "height width"]  # true where an image shows its object
Seed = int | Sequence[int]
# crops of one size: (crops, 3, size, size); no names, since the stacks of a list differ in them
Stack = UInt8[Tensor, "_ 3 _ _"]


class Transform(ABC):
    """Turns one image into stacks of crops, one stack for each resolution, the largest first."""

    @property
    @abstractmethod
    def crop_sizes(self) -> list[tuple[int, int]]:
        """Count and edge length in pixels of the crops of each stack."""

    @property
    def min_size(self) -> tuple[int, int]:
        """Height and width in pixels to which a larger image may be reduced when it is decoded.

        (0, 0) means that it may not. Otherwise no crop of the reduced image is enlarged to its
        size; its pixels differ a little from those of the whole image's crop.
        """
        return 0, 0

    @abstractmethod
    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """Crops of an RGB image, still in 8 bits: `normalize` is for the device that uses them.

        Args:
            image: RGB.
            seed: non-negative; the same image and seed give the same crops to the bit.
        """

    def crop_foreground(self, mask: Shown, seed: Seed = 0) -> Bool[Tensor, "size size"]:
        """Where the first crop of an image of this mask, with this seed, shows the object.

        Raises:
            ValueError: these views have no way to follow a mask.
        """
        raise ValueError(
            f"{type(self).__name__} cannot crop masks with their images; use data.transform "
            "AugmentedCrop, or leave masks out"
        )


def check_size(name: str, size: int) -> None:
    """Refuse a length that is not positive."""
    if size <= 0:
        raise ValueError(f"{name} {size} is not a length; use a positive number of pixels")


def check_scale(name: str, scale: tuple[float, float]) -> None:
    """Refuse what is no range of area shares."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"{name} {tuple(scale)} is not a range of area shares; use two numbers in (0, 1], the "
            "smaller first"
        )


def check_share(name: str, share: float) -> None:
    """Refuse what is neither a probability nor a strength."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} {share} is not between 0 and 1; 0 leaves it out")
