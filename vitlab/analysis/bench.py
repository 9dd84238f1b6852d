"""Speed as ratios against named peers, both measured in this run: `make bench`."""

import platform
import time
from collections.abc import Callable

import entmax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlab.data import MultiCrop
from vitlab.encoders.attention import softmax
from vitlab.encoders.entmax import entmax15
from vitlab.objectives.dino import cross_entropy

REPEATS = 7


def main() -> None:
    """Measure everything and print a table."""
    table = Table("what", "ours, ms", "peer", "peer, ms", "peer / ours")
    for what, ours, peer, theirs in [*attention(), loss(), crops()]:
        first, second = fastest(ours, theirs)
        table.add_row(what, f"{first:.1f}", peer, f"{second:.1f}", f"{second / first:.2f}")
    console = Console(width=120)
    console.print(f"{platform.platform()}, torch {torch.__version__}, ", end="")
    console.print(f"{torch.get_num_threads()} threads; best of {REPEATS}, taking turns")
    console.print(table)


Case = tuple[str, Callable[[], object], str, Callable[[], object]]


def attention() -> list[Case]:
    """Normalizing the scores of ViT-S/16 at 224 px, forward and backward."""
    scores = torch.randn(2, 6, 197, 197, requires_grad=True)

    def train(normalize: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: normalize(scores).square().sum().backward()

    package = train(lambda x: entmax.entmax15(x, dim=-1))
    name = "entmax15 of (2, 6, 197, 197), forward + backward"
    return [
        (name, train(entmax15), "entmax 1.3", package),
        (name, train(entmax15), "softmax", train(softmax)),
    ]


def loss() -> Case:
    """DINO's loss of ten views, against the loop over pairs of views."""
    student = torch.randn(10, 8, 8192).log_softmax(-1).requires_grad_()
    teacher = torch.randn(2, 8, 8192).softmax(-1)

    def loop() -> None:
        pairs = [
            -(teacher[w] * student[v]).sum(-1).mean() for w in range(2) for v in range(10) if v != w
        ]
        torch.stack(pairs).mean().backward()

    ours = "DINO's loss, 10 views of 8 images, 8192 prototypes"
    return ours, lambda: cross_entropy(student, teacher).backward(), "loop over pairs", loop


def crops() -> Case:
    """Ten crops of one photograph-sized picture, against torchvision on PIL images."""
    from PIL import Image
    from torchvision.transforms import v2

    rough = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((500, 375), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    views = MultiCrop()

    def pipeline(size: int, scale: tuple[float, float], blur: float, solarize: float = 0.0):
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], blur),
                v2.RandomSolarize(128, solarize),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    peers = [pipeline(224, (0.4, 1.0), 1.0), pipeline(224, (0.4, 1.0), 0.1, 0.2)]
    peers += [pipeline(96, (0.05, 0.4), 0.5)] * 8
    return (
        "2 x 224 + 8 x 96 crops of a 500 x 375 picture",
        lambda: views(pixels, 0),
        "torchvision on PIL",
        lambda: [peer(picture) for peer in peers],
    )


def fastest(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the shortest times of both in milliseconds; they take turns, so load hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):  # the first of each warms up
        for kept, call in zip(times, (first, second), strict=True):
            began = time.perf_counter()
            call()
            kept.append(1000 * (time.perf_counter() - began))
    return min(times[0][1:]), min(times[1][1:])


if __name__ == "__main__":
    main()
