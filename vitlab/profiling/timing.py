"""Time of calls, the machine they ran on, and tables as Markdown."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.table import Table

from vitlab.atomic_io import environment

MIB = 2**20
CPU = torch.device("cpu")


def fastest(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    device: torch.device = CPU,
    tick: Callable[[], object] = lambda: None,
) -> list[float]:
    """Return the shortest time of each call in milliseconds; they take turns, so load hits all.

    Args:
        calls: what to measure.
        repeats: turns of each; one more comes before them and warms up.
        device: where the calls do their work.
        tick: called after every call, for a progress bar.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for kept, call in zip(times, calls, strict=True):
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            kept.append(1000 * (time.perf_counter() - start))
            tick()
    return [min(kept[1:]) for kept in times]


def surroundings() -> dict[str, str]:
    """Return the conditions of a measurement: command, commit, hardware, torch, date."""
    known = environment()
    return {
        "command": readable_command(known["command"]),
        "commit": known["commit"] or "unknown",
        "CPU": f"{_processor()}, {known['cores']} cores, {torch.get_num_threads()} threads used",
        "GPU": ", ".join(known["devices"]) or "none",
        "system": platform.system(),
        "torch": torch.__version__,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def readable_command(command: str) -> str:
    """Return a command with the name of its program or module instead of a path."""
    program, space, rest = command.partition(" ")
    parts = Path(program).with_suffix("").parts
    module = parts[-2] if parts[-1:] == ("__main__",) else ""
    return f"python -m {module}{space}{rest}" if module else f"{Path(program).name}{space}{rest}"


def _processor() -> str:
    """Return the model of the CPU; Linux knows it, others at least the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def markdown(table: Table) -> str:
    """Return a table of rich as one of Markdown, with its title above and its caption below."""
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [
        _row(column.header for column in table.columns),
        _row("---" if column.justify == "left" else "---:" for column in table.columns),
        *(_row(row) for row in rows),
    ]
    if table.title:
        lines = [f"**{table.title}**", "", *lines]
    if table.caption:
        lines += ["", str(table.caption)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def page(title: str, tables: Iterable[Table]) -> str:
    """Return a Markdown page: where it was measured, then the tables."""
    facts = "\n".join(f"- {name}: {value}" for name, value in surroundings().items())
    return "\n".join([f"# {title}\n", facts, "", *map(markdown, tables)])
