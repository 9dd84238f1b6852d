"""`Transform`: an image to stacks of crops; resampling, normalization, and checks of settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vitlab.errors import InputError

Pixels = UInt8[np.ndarray, "height width 3"]
Foreground = Bool[np.ndarray, "height width"]  # true where an image shows its object
Seed = int | Sequence[int]
# crops of one size: (crops, 3, size, size); no names, since the stacks of a list differ in them
Stack = UInt8[Tensor, "_ 3 _ _"]

# of ImageNet's RGB values in [0, 1]; the constants that all published weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


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
        """Where the first crop of an image of this mask, with this seed, shows the object."""
        raise InputError(
            f"{type(self).__name__} cannot crop masks with their images; use data.transform "
            "AugmentedCrop, or leave masks out",
            field="data.transform",
        )


def normalize(images: UInt8[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
    """(value / 255 - MEAN) / STD for each channel, on the device where the images are."""
    mean, scale = _constants(images.device)
    # first the layout, then the type: on a CPU that takes half the time of both at once
    values = images.contiguous().to(torch.float32)
    return values.sub_(mean).mul_(scale)


@cache
def _constants(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """255 MEAN and 1 / (255 STD) where they are needed: copying them would wait for the device."""
    mean = 255 * torch.tensor(MEAN).view(3, 1, 1)
    scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
    return mean.to(device), scale.to(device)


def stack_of(crops: UInt8[np.ndarray, "_ h w 3"]) -> UInt8[Tensor, "_ 3 h w"]:
    """The crops as a tensor with channels first, which shares their memory."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2)


def resize(
    image: Pixels, rows: int, columns: int, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> UInt8[np.ndarray, "rows columns 3"]:
    """With antialiasing, as PIL does it; bicubic is what published evaluations expect."""
    # a batch of one with channels last, of which torch needs no other layout; and views are made
    # by numpy, since torch takes a microsecond for each
    batch = np.ascontiguousarray(image).reshape(1, *image.shape).transpose(0, 3, 1, 2)
    resized = F.interpolate(torch.from_numpy(batch), (rows, columns), mode=mode, antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)


def refuse(wrong: bool, name: str, value: object, message: str) -> None:
    """Refuse the value of a setting; the message goes on behind the two."""
    if wrong:
        raise InputError(f"{name} {value} {message}", field=name)


def check_sizes(**sizes: int) -> None:
    """Refuse lengths that are not positive."""
    for name, size in sizes.items():
        refuse(size <= 0, name, size, "is not a length; use a positive number of pixels")


def check_ranges(high: float = 1.0, **ranges: tuple[float, float]) -> None:
    """Refuse two numbers that are not a range within (0, high], or (0, inf) if high is inf."""
    within = f"in (0, {high:g}]" if np.isfinite(high) else "above 0"
    for name, values in ranges.items():
        wrong = len(values) != 2 or not 0 < values[0] <= values[1] <= high or np.isinf(values[1])
        message = f"is not a range; use two numbers {within}, the smaller first"
        refuse(bool(wrong), name, tuple(values), message)


def check_probabilities(**values: float) -> None:
    """Refuse what is neither a probability nor a strength."""
    for name, value in values.items():
        refuse(not 0 <= value <= 1, name, value, "is not between 0 and 1; 0 leaves it out")
