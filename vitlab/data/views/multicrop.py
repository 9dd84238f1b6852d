"""DINO's views: two large and several small crops.

Everything random here is a function of the image and a seed, so a run can be repeated to the bit
whatever the number of workers.
"""

import os
import random

import cv2
import numpy as np

from vitlab.data.views.pixels import stack_of
from vitlab.data.views.views import Pixels, Seed, Stack, Views, check_scale, check_size

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks a server for a newer version
import albumentations as A


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
        check_size("size", size)
        check_size("local_size", local_size)
        check_scale("scale", scale)
        check_scale("local_scale", local_scale)
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
        """Random crops of an RGB image."""
        sequence = np.random.SeedSequence(seed)
        numbers = np.random.default_rng(sequence)
        # the library draws from both kinds of generator
        more_numbers = random.Random(int(sequence.generate_state(1, np.uint64)[0]))
        stacks = [[self.first, self.second], [self.local] * self.locals]
        for pipeline in (self.first, self.second, self.local):
            pipeline.set_random_state(numbers, more_numbers)
        return [
            stack_of(np.stack([pipeline(image=image)["image"] for pipeline in stack]))
            for stack in stacks
            if stack
        ]


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
