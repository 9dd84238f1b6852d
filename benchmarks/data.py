"""Images per second and core from file to views, against torchvision on PIL images.

The peer is the augmentation of DINO's released code (arXiv:2104.14294), written here from its
description. Both sides read and decode the same files in the same process on one core.
"""

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from rich.table import Table
from torch import Tensor
from torchvision import transforms

from vitlab.data.decode import decode_image, read_image
from vitlab.data.synthetic.drawing.canvas import develop
from vitlab.data.synthetic.drawing.scenes import portrait
from vitlab.data.synthetic.images import save_jpeg
from vitlab.data.transforms import MEAN, STD, MultiCrop, RandomCrop, normalize, resize, uniforms
from vitlab.profiling.timing import fastest

PHOTOGRAPHS = Path("shared/data/mini_layouts/imagenet_fullres_flat")  # beside the repository
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MOST = 64  # files
DRAWN = 16  # pictures, where there are no photographs
ROUNDS = 6  # over the files in one turn of ours, so that a turn is about as long as the peer's


def tables(folder: Path | None, repeats: int) -> Iterator[Table]:
    """Measure speed, then closeness.

    Args:
        folder: of photographs; by default those beside the repository, or else drawn pictures.
        repeats: turns of each side.

    Raises:
        ValueError: if the folder holds no pictures.
    """
    beside = Path(__file__).parents[2] / PHOTOGRAPHS
    with tempfile.TemporaryDirectory() as drawn, one_core():
        if folder is None and not beside.is_dir():
            draw(Path(drawn))
            paths, source = pictures(Path(drawn)), f"drawn at 500 x 375 px, as there is no {beside}"
        else:
            paths, source = pictures(folder or beside), f"of {(folder or beside).name}"
        yield speed(paths, repeats, f"{len(paths)} pictures {source}")
        yield closeness(paths)


def pictures(folder: Path) -> list[Path]:
    """Return the first pictures below a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        raise ValueError(f"{folder} holds no pictures; name a folder of {', '.join(ENDINGS)}")
    return paths[:MOST]


def draw(folder: Path) -> None:
    """Draw pictures of ImageNet's usual size."""
    for number in range(DRAWN):
        rng = np.random.default_rng(number)
        save_jpeg(folder / f"{number}.jpg", develop(portrait(rng, 375, 500, number % 10), rng), rng)


def speed(paths: list[Path], repeats: int, name: str) -> Table:
    """Measure from the file to the views, and the decoder alone."""
    views, peer, seeds = MultiCrop(), Peer(), uniforms(0)

    def ours(path: Path) -> list[Tensor]:
        image = decode_image(path.read_bytes(), str(path), views.min_size)
        return views(image, int(next(seeds) * 2**62))

    cases: list[tuple[str, Callable[[Path], object], Callable[[Path], object]]] = [
        ("2 x 224 + 8 x 96 crops, 8 bits", ours, peer.read),
        ("the same, normalized floats", lambda path: [*map(normalize, ours(path))], peer.read),
        ("decoding alone", read_image, lambda path: Image.open(path).convert("RGB")),
    ]
    table = Table("from the file to", "ours", "peer", "ours / peer", title=f"images/s, {name}")
    for what, first, second in cases:
        turns = (
            lambda first=first: [first(path) for path in paths * ROUNDS],
            lambda second=second: [second(path) for path in paths],
        )
        own, theirs = fastest(turns, repeats)
        rates = 1000 * ROUNDS * len(paths) / own, 1000 * len(paths) / theirs
        table.add_row(what, f"{rates[0]:.0f}", f"{rates[1]:.1f}", f"{rates[0] / rates[1]:.2f}")
    table.caption = "peer: torchvision's transforms on PIL images; its crops are normalized floats"
    return table


def closeness(paths: list[Path]) -> Table:
    """Measure how far pixels are from PIL's where nothing but the region is random."""
    views, numbers = MultiCrop(), uniforms(0)
    pairs = [
        (read_image(path), ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        for path in paths
    ]
    table = Table("what", "mean", "largest", title="difference to PIL, levels of 0..255")
    for what, crops in (
        ("decoding", []),
        ("crops of 224 px", [views.first, views.second]),
        ("crops of 96 px", [views.local] * 8),
    ):
        found = [cut_twice(*pair, crop, numbers) for pair in pairs for crop in crops] or pairs
        mean, largest = difference(found)
        table.add_row(what, f"{mean:.4f}", f"{largest:.0f}")
    return table


def difference(pairs: Iterable[tuple[np.ndarray, Image.Image]]) -> tuple[float, float]:
    """Return the mean and the largest absolute difference of all values."""
    found = [np.abs(ours.astype(np.int16) - np.asarray(theirs)) for ours, theirs in pairs]
    mean = sum(int(each.sum()) for each in found) / sum(each.size for each in found)
    return mean, max(float(each.max()) for each in found)


def cut_twice(
    image: np.ndarray, theirs: Image.Image, crop: RandomCrop, numbers: Iterator[float]
) -> tuple[np.ndarray, Image.Image]:
    """Return one region, resized by us and by PIL."""
    height, width, _ = image.shape
    box = rows, columns = crop.draw(height, width, numbers).box
    region = (columns.start, rows.start, columns.stop, rows.stop)
    size = (crop.size, crop.size)
    resized = theirs.crop(region).resize(size, Image.Resampling.BICUBIC)
    return resize(image[box], *size), resized


class Peer:
    """DINO's ten crops with torchvision's transforms on PIL images."""

    def __init__(self):
        first = augmentation(224, (0.4, 1.0), blur=1.0)
        second = augmentation(224, (0.4, 1.0), blur=0.1, solarize=0.2)
        local = augmentation(96, (0.05, 0.4), blur=0.5)
        self.crops = [first, second] + [local] * 8

    def read(self, path: Path) -> list[Tensor]:
        """Return the crops of a file as normalized floats."""
        image = Image.open(path).convert("RGB")
        return [crop(image) for crop in self.crops]


def augmentation(
    size: int, scale: tuple[float, float], blur: float, solarize: float = 0.0
) -> transforms.Compose:
    """Return one crop of the peer; `blur` and `solarize` are probabilities."""
    bicubic = transforms.InterpolationMode.BICUBIC
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale, interpolation=bicubic),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([jitter], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([blurred], blur),
            transforms.RandomApply([ImageOps.solarize], solarize),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def blurred(image: Image.Image) -> Image.Image:
    """Return the image with PIL's blur, of a random radius."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


@contextmanager
def one_core() -> Iterator[None]:
    """Let neither library start threads: the parallelism of a loader is its workers."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
