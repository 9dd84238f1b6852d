"""What one image becomes: normalized crops. The only file that knows the augmentation library.

Everything random here is a function of the image and a seed, so a run can be repeated to the bit
whatever the number of workers.
"""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks a server for a newer version
import albumentations as A

# of ImageNet's RGB values in [0, 1]; the constants that all published weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Pixels = UInt8[np.ndarray, "height width 3"]
Seed = int | Sequence[int]
# crops of one size: (crops, 3, size, size); no names, since the stacks of a list differ in them
Stack = Float[Tensor, "_ 3 _ _"]


class Views(ABC):
    """Turns one image into stacks of crops, one stack for each resolution, the largest first."""

    @property
    @abstractmethod
    def crops(self) -> list[tuple[int, int]]:
        """Count and edge length in pixels of the crops of each stack."""

    @abstractmethod
    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """Crops of an RGB image, normalized by `MEAN` and `STD`.

        Args:
            image: RGB.
            seed: non-negative; the same image and seed give the same crops to the bit.
        """


class MultiCrop(Views):
    """Two large and several small random crops, as DINO trains on them (arXiv:2104.14294).

    Probabilities are those of the released code. Every crop: flip 0.5, color jitter 0.8, gray
    0.2. Blur: first large crop 1.0, second 0.1, small ones 0.5. Solarization: second large crop
    only, 0.2. Departure: crops are shrunk by area averaging and enlarged bicubically, where the
    released code is bicubic both ways.

    Args:
        size: edge of the two large crops, in pixels.
        local_size: edge of the small crops, in pixels.
        locals: number of small crops; 0 leaves the two large ones (the authors then advise
            scale 0.14 to 1).
        scale: smallest and largest share of the image's area that a large crop covers.
        local_scale: the same for a small crop.
    """

    def __init__(
        self,
        size: int = 224,
        local_size: int = 96,
        locals: int = 8,
        scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
    ):
        _check_size("size", size)
        _check_size("local_size", local_size)
        _check_scale("scale", scale)
        _check_scale("local_scale", local_scale)
        if locals < 0:
            raise ValueError(f"locals {locals} is negative; use 0 for no small crops, or a count")
        self.size, self.local_size, self.locals = size, local_size, locals
        self.scale, self.local_scale = tuple(scale), tuple(local_scale)
        self.first = _pipeline(size, self.scale, blur=1.0)
        self.second = _pipeline(size, self.scale, blur=0.1, solarize=0.2)
        self.local = _pipeline(local_size, self.local_scale, blur=0.5)

    @property
    def crops(self) -> list[tuple[int, int]]:
        """Two large crops, then the small ones if there are any."""
        return [(2, self.size)] + [(self.locals, self.local_size)] * (self.locals > 0)

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """Random crops of an RGB image, normalized."""
        sequence = np.random.SeedSequence(seed)
        numbers = np.random.default_rng(sequence)
        # the library draws from both kinds of generator
        more_numbers = random.Random(int(sequence.generate_state(1, np.uint64)[0]))
        stacks = [[self.first, self.second], [self.local] * self.locals]
        for pipeline in (self.first, self.second, self.local):
            pipeline.set_random_state(numbers, more_numbers)
        return [
            normalize(np.stack([pipeline(image=image)["image"] for pipeline in stack]))
            for stack in stacks
            if stack
        ]


class CenterCrop(Views):
    """The square in the middle, as classifiers are evaluated: for 224, the short side becomes 256.

    Args:
        size: edge of the square, in pixels.
    """

    def __init__(self, size: int = 224):
        _check_size("size", size)
        self.size = size

    @property
    def crops(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The middle of the image, normalized; nothing is random."""
        height, width = image.shape[:2]
        short = round(self.size * 256 / 224)
        rows, columns = short * height // min(height, width), short * width // min(height, width)
        resized = resize(image, rows, columns)
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        return [normalize(resized[None, top : top + self.size, left : left + self.size])]


class Whole(Views):
    """The whole image, squeezed into a square: every pixel of a mask is seen.

    Args:
        size: edge of the square, in pixels.
    """

    def __init__(self, size: int = 224):
        _check_size("size", size)
        self.size = size

    @property
    def crops(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The image at a new size, normalized; nothing is random."""
        return [normalize(resize(image, self.size, self.size)[None])]


def normalize(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """(value / 255 - MEAN) / STD for each channel."""
    mean = 255 * torch.tensor(MEAN).view(3, 1, 1)
    scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).mul_(scale)


def resize(image: Pixels, rows: int, columns: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Bicubic with antialiasing, as PIL does it and published evaluations expect."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (rows, columns), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _pipeline(size: int, scale: tuple[float, ...], blur: float, solarize: float = 0.0) -> A.Compose:
    """One random crop; `blur` and `solarize` are probabilities."""
    return A.Compose(
        [
            A.RandomResizedCrop(
                (size, size),
                scale=scale,
                ratio=(3 / 4, 4 / 3),
                interpolation=cv2.INTER_CUBIC,
                area_for_downscale="image",  # cubic alone would alias when shrinking
            ),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=blur),  # kernel fits sigma
            A.Solarize(threshold_range=(0.5, 0.5), p=solarize),  # inverts values from 128 on
        ]
    )


def _check_size(name: str, size: int) -> None:
    if size <= 0:
        raise ValueError(f"{name} {size} is not a length; use a positive number of pixels")


def _check_scale(name: str, scale: tuple[float, float]) -> None:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"{name} {tuple(scale)} is not a range of area shares; use two numbers in (0, 1], the "
            "smaller first"
        )
