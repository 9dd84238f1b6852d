"""Speed as ratios against named peers, both measured in this run: `make bench`."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import analysis, attention, data, dino, encoder, probes
from vitlab.atomic_io import write_bytes
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


def compared(title: str, cases: Sequence[attention.Case]) -> Table:
    """Measure each case against its peer, on the CPU."""
    table = Table("what", "ours, ms", "peer", "peer, ms", "peer / ours", title=title)
    for what, ours, peer, theirs in cases:
        first, second = fastest([ours, theirs], REPEATS)
        table.add_row(what, f"{first:.1f}", peer, f"{second:.1f}", f"{second / first:.2f}")
    return table


# of the folder of photographs
PARTS: dict[str, Callable[[Path | None], Iterable[Table]]] = {
    "attention": lambda _: (
        compared("attention, CPU", attention.cases()),
        attention.on_gpu(REPEATS),
    ),
    "encoder": lambda _: encoder.tables(REPEATS),
    "loss": lambda _: [compared("loss, CPU", [dino.loss()])],
    "dino": lambda _: dino.tables(REPEATS),
    "probes": lambda _: [compared("probes, CPU", probes.cases())],
    "analysis": lambda _: analysis.tables(REPEATS),
    "data": lambda images: data.tables(images, REPEATS),
}


if __name__ == "__main__":
    main()
