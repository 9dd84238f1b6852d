"""Measurements on the CPU and on a GPU."""

from collections.abc import Callable, Iterator

import torch
from rich.table import Table

from vitlab.profiling.timing import CPU

NO_GPU = "not measured: no GPU"


def on_devices(
    table: Callable[[int, torch.device], Table], batch: int, title: str, row: str
) -> Iterator[Table]:
    """Yield a table of the CPU and one of the GPU, or one that says there is none.

    Args:
        table: measures batches of so many images on a device.
        batch: images on the CPU; sixteen times as many on a GPU.
        title: of what is measured.
        row: what the GPU would have shown.
    """
    yield table(batch, CPU)
    if torch.cuda.is_available():
        yield table(16 * batch, torch.device("cuda"))
    else:
        missing = Table("what", "measured", title=f"{title} on a GPU")
        missing.add_row(row, NO_GPU)
        yield missing


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return how far the memory in use on a GPU rises during a call."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
