"""Speed as ratios against named peers, both measured in this run: `make bench`."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import entmax
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import analysis, attention, data, dino, encoder, probes
from benchmarks.attention import Case
from vitlab.atomic_io import write_bytes
from vitlab.encoders.entmax.operator import entmax15
from vitlab.objectives.dino import cross_entropy
from vitlab.profiling.timing import fastest, markdown, page, surroundings

REPEATS = 7


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, or the parts that are asked for, and print tables."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--images", type=Path, help="folder of photographs, for part data")
    parser.add_argument("--out", type=Path, help="Markdown file to write the tables to as well")
    given = parser.parse_args(arguments)
    if given.out and given.out.suffix != ".md":
        parser.error(f"--out {given.out} is written in Markdown; give a name that ends in .md")
    console = Console(width=120)
    for name, value in surroundings().items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"best of {REPEATS}, taking turns")
    done: list[Table] = []
    try:
        for part in given.only:
            for table in PARTS[part](given.images):
                console.print(table)
                done.append(table)
    except ValueError as error:
        parser.error(str(error))
    if given.out:
        text = page(f"Benchmarks, best of {REPEATS}, taking turns", map(markdown, done))
        write_bytes(given.out, text.encode())
        console.print(f"written to {given.out}")


def attention_tables(_: Path | None) -> Iterator[Table]:
    """Measure the normalizer alone, then whole attentions."""
    yield compared("attention, CPU", [*normalizers(), *attention.cases()])
    yield attention.on_gpu(REPEATS)


def loss_tables(_: Path | None) -> Iterator[Table]:
    """Measure DINO's loss alone."""
    yield compared("loss, CPU", [loss()])


def probe_tables(_: Path | None) -> Iterator[Table]:
    """Measure probes on tables of frozen features."""
    yield compared("probes, CPU", probes.cases())


def compared(title: str, cases: Sequence[Case]) -> Table:
    """Measure each case against its peer, on the CPU."""
    table = Table("what", "ours, ms", "peer", "peer, ms", "peer / ours", title=title)
    for what, ours, peer, theirs in cases:
        first, second = fastest([ours, theirs], REPEATS)
        table.add_row(what, f"{first:.1f}", peer, f"{second:.1f}", f"{second / first:.2f}")
    return table


def normalizers() -> list[Case]:
    """Normalizing the scores of ViT-S/16 at 224 px, forward and backward."""
    scores = torch.randn(2, 6, 197, 197, requires_grad=True)

    def train(normalize: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: normalize(scores).square().sum().backward()

    package = train(lambda x: entmax.entmax15(x, dim=-1))
    name = "entmax15 of (2, 6, 197, 197), forward + backward"
    return [
        (name, train(entmax15), "entmax 1.3", package),
        (name, train(entmax15), "softmax", train(lambda x: x.softmax(-1))),
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


PARTS: dict[str, Callable[[Path | None], Iterator[Table]]] = {
    "attention": attention_tables,
    "encoder": lambda _: encoder.tables(REPEATS),
    "loss": loss_tables,
    "dino": lambda _: dino.tables(REPEATS),
    "probes": probe_tables,
    "analysis": lambda _: analysis.tables(REPEATS),
    "data": lambda images: data.tables(images, REPEATS),
}


if __name__ == "__main__":
    main()
