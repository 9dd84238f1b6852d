"""Measurements on the CPU and, where there is one, on a GPU."""

from collections.abc import Callable, Iterator

import torch
from rich.table import Table

from vitlab.profiling.timing import CPU

NO_GPU = "not measured: no GPU"


def on_devices(
    title: str, table: Callable[[int, torch.device], Table], batch: int
) -> Iterator[Table]:
    """Yield a table of the CPU, and one of the GPU with sixteen times as many images, or no GPU."""
    yield table(batch, CPU)
    if torch.cuda.is_available():
        yield table(16 * batch, torch.device("cuda"))
    else:
        missing = Table("measured", title=f"{title} on a GPU")
        missing.add_row(NO_GPU)
        yield missing
