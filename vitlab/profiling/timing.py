"""Time of calls, the machine they ran on, and tables as Markdown."""

import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from rich.table import Table

from vitlab.atomic_io import environment

MIB = 2**20
CPU = torch.device("cpu")


def fastest(
    calls: Sequence[Callable[[], object]], repeats: int, device: torch.device = CPU
) -> list[float]:
    """Return the shortest time of each call in milliseconds; they take turns, so load hits all.

    Args:
        calls: what to measure.
        repeats: turns of each; one more comes before them and warms up.
        device: where the calls do their work.
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
    return [min(each[1:]) for each in times]


def surroundings() -> dict[str, str]:
    """Return where and when something is measured: command, commit, hardware, versions, date."""
    known = environment()
    cores = Path("/proc/cpuinfo")  # of Linux; others tell the architecture at least
    model = re.search(r"model name\s*: (.+)", cores.read_text() if cores.exists() else "")
    command = [Path(word).name for word in sys.orig_argv[:2]] + sys.orig_argv[2:]
    return {
        "command": " ".join(command),
        "commit": known["commit"] or "unknown",
        "CPU": f"{model[1] if model else platform.machine()}, {known['cores']} cores, "
        f"{torch.get_num_threads()} threads used",
        "GPU": ", ".join(known["devices"]) or "none",
        "system": platform.system(),
        "torch": torch.__version__,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def markdown(table: Table) -> str:
    """Return a table of rich as one of Markdown, with title and caption."""
    cells = {str(column.header): list(column.cells) for column in table.columns}
    align = ["left" if column.justify == "left" else "right" for column in table.columns]
    text = pd.DataFrame(cells).to_markdown(index=False, colalign=align, disable_numparse=True)
    return f"**{table.title}**\n\n{text}" + (f"\n\n{table.caption}" if table.caption else "")


def page(title: str, texts: Iterable[str]) -> str:
    """Return a Markdown page: where it was measured, then texts."""
    facts = "\n".join(f"- {name}: {value}" for name, value in surroundings().items())
    return "\n\n".join([f"# {title}", facts, *texts]) + "\n"
