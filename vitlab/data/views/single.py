"""One view of an image."""

from vitlab.data.views.pixels import resize, stack_of
from vitlab.data.views.views import Pixels, Seed, Stack, Views, check_size


class CenterCrop(Views):
    """The square in the middle, as classifiers are evaluated: for 224, the short side becomes 256.

    Args:
        size: edge of the square, in pixels.
    """

    def __init__(self, size: int = 224):
        check_size("size", size)
        self.size = size

    @property
    def crops(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The middle of the image; nothing is random."""
        height, width = image.shape[:2]
        short = round(self.size * 256 / 224)
        rows, columns = short * height // min(height, width), short * width // min(height, width)
        resized = resize(image, rows, columns)
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        return [stack_of(resized[None, top : top + self.size, left : left + self.size])]


class Whole(Views):
    """The whole image, squeezed into a square: every pixel of a mask is seen.

    Args:
        size: edge of the square, in pixels.
    """

    def __init__(self, size: int = 224):
        check_size("size", size)
        self.size = size

    @property
    def crops(self) -> list[tuple[int, int]]:
        """One crop."""
        return [(1, self.size)]

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The image at a new size; nothing is random."""
        return [stack_of(resize(image, self.size, self.size)[None])]
