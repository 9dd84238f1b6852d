"""Speed as ratios against named peers, both measured in this run: `make bench`."""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import entmax
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlab.analysis import bench_attention, bench_data
from vitlab.analysis.bench_attention import Case
from vitlab.encoders.attention import softmax
from vitlab.encoders.entmax import entmax15
from vitlab.objectives.dino import cross_entropy

REPEATS = 7
PARTS = ("attention", "loss", "data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, or the parts that are asked for, and print tables."""
    parser = argparse.ArgumentParser("python -m vitlab.analysis.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--images", type=Path, help="folder of photographs, for part data")
    given = parser.parse_args(arguments)
    console = Console(width=120)
    console.print(f"{platform.platform()}, torch {torch.__version__}, ", end="")
    console.print(f"{torch.get_num_threads()} threads; best of {REPEATS}, taking turns")
    cases = [*attention(), *bench_attention.cases()] if "attention" in given.only else []
    cases += [loss()] if "loss" in given.only else []
    if cases:
        table = Table("what", "ours, ms", "peer", "peer, ms", "peer / ours")
        for what, ours, peer, theirs in cases:
            first, second = fastest(ours, theirs)
            table.add_row(what, f"{first:.1f}", peer, f"{second:.1f}", f"{second / first:.2f}")
        console.print(table)
    if "data" in given.only:
        try:
            for part in bench_data.tables(given.images, REPEATS):
                console.print(part)
        except ValueError as error:
            parser.error(str(error))


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
