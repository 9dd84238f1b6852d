"""One view of an image."""

from vitlab.data.transforms.color import Jitter
from vitlab.data.transforms.functional import resize, stack_of
from vitlab.data.transforms.random_crop import RandomCrop, make_all, uniforms
from vitlab.data.transforms.transform import (
    Pixels,
    Seed,
    Stack,
    Transform,
    check_scale,
    check_share,
    check_size,
)


class SingleCrop(Transform):
    """One random crop, as supervised classifiers are trained: 3/4 to 4/3 as wide as high.

    Args:
        size: its edge, in pixels.
        scale: smallest and largest share of the image's area that it covers.
        color_jitter: strength of random changes of brightness, contrast and saturation, in random
            order: their factors lie between 1 - color_jitter and 1 + color_jitter. 0 keeps the
            colors.
        flip: probability that left and right are swapped.
    """

    def __init__(
        self,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        color_jitter: float = 0.0,
        flip: float = 0.5,
    ):
        check_size("size", size)
        check_scale("scale", scale)
        check_share("color_jitter", color_jitter)
        check_share("flip", flip)
        self.size, self.scale, self.color_jitter, self.flip = size, tuple(scale), color_jitter, flip
        strength = Jitter(color_jitter, color_jitter, color_jitter)
        self.crop = RandomCrop(size, (scale[0], scale[1]), flip=flip, jitter=strength)

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    @property
    def min_size(self) -> tuple[int, int]:
        """Of this size, the smallest crop need not be enlarged."""
        return self.crop.min_size, self.crop.min_size

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """A random crop of an RGB image."""
        return [stack_of(make_all([self.crop], image, uniforms(seed)))]


class CenterCrop(Transform):
    """The square in the middle, as classifiers are evaluated: for 224, the short side becomes 256.

    Args:
        size: edge of the square, in pixels.
        share: of the image's short side that the square covers.
    """

    def __init__(self, size: int = 224, share: float = 0.875):
        check_size("size", size)
        if not 0 < share <= 1:
            raise ValueError(f"share {share} is no part of the image; use a number in (0, 1]")
        self.size, self.short = size, round(size / share)

    @property
    def crop_sizes(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The middle of the image; nothing is random."""
        height, width = image.shape[:2]
        short = min(height, width)
        rows, columns = self.short * height // short, self.short * width // short
        resized = resize(image, rows, columns)
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        return [stack_of(resized[None, top : top + self.size, left : left + self.size])]
