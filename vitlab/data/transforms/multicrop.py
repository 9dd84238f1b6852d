"""DINO's views: two large and several small crops.

Everything random here is a function of the image and a seed, so a run can be repeated to the bit
whatever the number of workers.
"""

import math
from dataclasses import dataclass
from functools import partial

from vitlab.data.transforms.color import ColorJitter
from vitlab.data.transforms.random_crop import RandomCrop, make_all, uniforms
from vitlab.data.transforms.transform import (
    Pixels,
    Seed,
    Stack,
    Transform,
    check_ranges,
    check_sizes,
    refuse,
    stack_of,
)


@dataclass(eq=False)
class MultiCrop(Transform):
    """Two large and several small random crops, as DINO trains on them (arXiv:2104.14294).

    Probabilities and operations are those of the released code. Every crop: flip 0.5, color jitter
    0.8, gray 0.2. Blur: first large crop 1.0, second 0.1, small ones 0.5. Solarization: second
    large crop only, 0.2.

    Args:
        size: edge of the two large crops, in pixels.
        local_size: edge of the small crops, in pixels.
        num_local_crops: number of small crops; 0 leaves the two large ones (the authors then advise
            scale 0.14 to 1).
        scale: smallest and largest share of the image's area that a large crop covers.
        local_scale: the same for a small crop.
        blur_sigma: range of the blur's standard deviation, in pixels. DINO's, of crops of 224
            pixels; at 64 its upper half leaves nothing of a fine texture.
    """

    size: int = 224
    local_size: int = 96
    num_local_crops: int = 8
    scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_sizes(size=self.size, local_size=self.local_size)
        check_ranges(scale=self.scale, local_scale=self.local_scale)
        check_ranges(math.inf, blur_sigma=self.blur_sigma)
        message = "is negative; use 0 for no small crops, or a count"
        refuse(self.num_local_crops < 0, "num_local_crops", self.num_local_crops, message)
        jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
        sigmas = self.blur_sigma
        crop = partial(RandomCrop, flip=0.5, jitter=jitter, jittered=0.8, gray=0.2, sigmas=sigmas)
        self.first = crop(self.size, self.scale, blur=1.0)
        self.second = crop(self.size, self.scale, blur=0.1, solarize=0.2)
        self.local = crop(self.local_size, self.local_scale, blur=0.5)
        smallest = self.local.min_size if self.num_local_crops else (0, 0)
        self.min_size = max(self.first.min_size, smallest)

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """Two large crops, then the small ones if there are any."""
        sizes = [(2, self.size), (self.num_local_crops, self.local_size)]
        return [(count, size) for count, size in sizes if count]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """Random crops of an RGB image."""
        numbers = uniforms(seed)
        stacks = [[self.first, self.second], [self.local] * self.num_local_crops]
        return [stack_of(make_all(crops, image, numbers)) for crops in stacks if crops]
