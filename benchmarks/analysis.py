"""`vitlab analyze` against a plain forward pass over the same images."""

from collections.abc import Iterator

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.devices import on_devices
from vitlab.analysis.measures.engine import MeasureEngine
from vitlab.encoders import ViT
from vitlab.profiling.cost import OPTIONS
from vitlab.profiling.timing import fastest

AIM = 3.0  # times a plain forward pass, of softmax attention at 224 px
ARMS = ("plain", "entmax15", "locality")


def tables(repeats: int, size: str = "S", image: int = 224, batch: int = 16) -> Iterator[Table]:
    """Measure all measures, with masks, in fp32 on the CPU, and on a GPU.

    Args:
        repeats: turns of each.
        size: of the ViT, with patches of 16 pixels.
        image: pixels of the image edge.
        batch: images on the CPU; sixteen times as many on a GPU.
    """

    def table(count: int, device: torch.device) -> Table:
        drawn = torch.Generator().manual_seed(0)
        images = torch.randn(count, 3, image, image, generator=drawn).to(device)
        cells = (torch.rand(count, 4, 4, generator=drawn) > 0.5).to(device, torch.uint8)
        objects = cells.repeat_interleave(image // 4, 1).repeat_interleave(image // 4, 2)
        columns = ("encoder", "forward, ms", "analysis, ms", "/ forward", "aim")
        kind = f"ViT-{size}/16, {count} images of {image} px, fp32, {device}"
        shown = Table(*columns, title=f"analysis, {kind}")
        for name in ARMS:
            vit = ViT(size, 16, image, **OPTIONS[name])  # type: ignore[arg-type]
            analysis = Analysis(vit.to(device).eval(), images, objects)
            plain, whole = fastest([analysis.forward, analysis.all], repeats, device)
            aim = f"<= {AIM:.0f}" if name == "plain" else ""
            shown.add_row(name, f"{plain:.0f}", f"{whole:.0f}", f"{whole / plain:.2f}", aim)
        return shown

    yield from on_devices("analysis", table, batch)


class Analysis:
    """Passes of an encoder in evaluation mode over normalized images, plain and measured."""

    def __init__(self, encoder: ViT, images: Tensor, objects: Tensor):
        self.encoder, self.images, self.objects = encoder, images, objects
        self.engine = MeasureEngine(encoder, images=1000)
        self.step = self.engine.max_batch_size(images.shape[2], images.device)

    def forward(self) -> None:
        """Take a plain forward pass."""
        with torch.inference_mode():
            self.encoder(self.images)

    def all(self) -> None:
        """Measure all there is, a few images at a time as `vitlab analyze` does."""
        pieces = (each.split(self.step) for each in (self.images, self.objects))
        for images, objects in zip(*pieces, strict=True):
            self.engine.update(images, objects)
