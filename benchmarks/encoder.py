"""Whole encoders, each option against the plain one."""

from collections.abc import Iterator

import torch
from rich.table import Table

from benchmarks.devices import on_devices
from vitlab.encoders import ViT
from vitlab.profiling.cost import OPTIONS, Passes
from vitlab.profiling.timing import MIB, fastest

AIMS = {"specialized": 1.02, "locality, refined": 1.15}  # times the plain encoder
ARMS = ("plain", "entmax15", *AIMS)
COLUMNS = ["encoder", "forward + backward, ms", "/ plain", "aim"]
COLUMNS += ["saved for backward, MiB per image", "saved / plain"]


def tables(repeats: int, size: str = "S", image: int = 224, batch: int = 4) -> Iterator[Table]:
    """Measure forward and backward in fp32 on the CPU, and in bf16 on a GPU.

    Args:
        repeats: turns of each encoder.
        size: of the ViT, with patches of 16 pixels.
        image: pixels of the image edge.
        batch: images on the CPU; sixteen times as many on a GPU.
    """

    def table(count: int, device: torch.device) -> Table:
        half = device.type == "cuda"
        images = torch.randn(count, 3, image, image, device=device)
        vits = [ViT(size, 16, image, **OPTIONS[name]) for name in ARMS]  # type: ignore[arg-type]
        passes = [Passes(vit.to(device), images) for vit in vits]
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            saved = [each.saved() for each in passes]
            times = fastest([each.train for each in passes], repeats, device)
        kind = f"{'bf16' if half else 'fp32'}, {device}"
        shown = Table(*COLUMNS, title=f"ViT-{size}/16, {count} images of {image} px, {kind}")
        for name, time, kept in zip(ARMS, times, saved, strict=True):
            aim = f"<= {AIMS[name]}" if name in AIMS else ""
            memory = f"{kept / MIB:.1f}", f"{kept / saved[0]:.2f}"
            shown.add_row(name, f"{time:.1f}", f"{time / times[0]:.3f}", aim, *memory)
        return shown

    yield from on_devices("whole encoders", table, batch)
