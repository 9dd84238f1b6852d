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


def tables(repeats: int, size: str = "S", image: int = 224, batch: int = 4) -> Iterator[Table]:
    """Measure forward and backward in fp32 on the CPU, and in bf16 on a GPU.

    Args:
        repeats: turns of each encoder.
        size: of the ViT, with patches of 16 pixels.
        image: pixels of the image edge.
        batch: images on the CPU; sixteen times as many on a GPU.
    """
    yield from on_devices(
        lambda images, device: table(repeats, size, image, images, device),
        *(batch, "whole encoders", "forward + backward in bf16"),
    )


def table(repeats: int, size: str, image: int, batch: int, device: torch.device) -> Table:
    """Return time and saved bytes of each arm on one device."""
    half = device.type == "cuda"
    images = torch.randn(batch, 3, image, image, device=device)
    passes = {
        name: Passes(ViT(size, 16, image, **OPTIONS[name]).to(device), images)  # type: ignore[arg-type]
        for name in ARMS
    }
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        saved = [each.saved() for each in passes.values()]
        times = fastest([each.train for each in passes.values()], repeats, device)
    shown = Table(
        title=f"ViT-{size}/16, {batch} images of {image} px, {'bf16' if half else 'fp32'}, {device}"
    )
    for column in ("encoder", "forward + backward, ms", "/ plain", "aim"):
        shown.add_column(column)
    for column in ("saved for backward, MiB per image", "saved / plain"):
        shown.add_column(column)
    for name, time, bytes_ in zip(passes, times, saved, strict=True):
        shown.add_row(
            name,
            f"{time:.1f}",
            f"{time / times[0]:.3f}",
            f"<= {AIMS[name]}" if name in AIMS else "",
            f"{bytes_ / MIB:.1f}",
            f"{bytes_ / saved[0]:.2f}",
        )
    return shown
