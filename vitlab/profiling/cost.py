"""Cost of encoders: parameters, FLOPs, activation memory and throughput, side by side."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlab.activation_memory import saved_bytes
from vitlab.atomic_io import write_bytes
from vitlab.encoders import CLSSpecialization, Encoder, Locality, ViT, record
from vitlab.errors import InputError
from vitlab.profiling.timing import MIB, fastest, page, surroundings

REPEATS = 3
ENDINGS = (".json", ".md", ".csv")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "entmax15": {"normalizer": "entmax15"},
    "specialized": {"cls_specialization": CLSSpecialization(norm=1.0, qkv=0.334)},
    "locality": {"locality": Locality("gaussian")},
    "locality, refined": {"locality": Locality("gaussian", refine=True)},
    "4 registers": {"num_registers": 4},
}
CONVENTION = (
    "In fp32. FLOPs: two for each multiply-add of a matrix product or convolution, attention's "
    "scores and values among them, nothing else; the latter also by themselves. Saved: what a "
    "forward pass keeps until backward, without weights. Images/s: the best of turns, all encoders "
    "taking turns."
)


@dataclass(frozen=True)
class Cost:
    """Cost of one encoder at one image size.

    Attributes:
        encoder: its name.
        size: pixels of the image edge.
        parameters: of the whole encoder.
        flops: of a forward pass of one image; a multiply-add counts as two.
        attention_flops: those of them that are scores and values of attention.
        saved: bytes that an image keeps until backward.
        forward: images per second of a forward pass without gradients.
        training: images per second of a forward and a backward pass.
    """

    encoder: str
    size: int
    parameters: int
    flops: int
    attention_flops: int
    saved: int
    forward: float
    training: float


def cost(
    encoders: Mapping[str, Encoder],
    sizes: Sequence[int] = (224, 384, 512),
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    out: Path | None = None,
) -> list[Cost]:
    """Measure encoders, print a table with a row for each, and write it where asked.

    Args:
        encoders: by name; the options of a single ViT are measured beside it.
        sizes: pixels of image edges.
        batch_size: images of a pass.
        device: where to measure.
        out: file to write: .json, .md or .csv.

    Raises:
        InputError: a batch without images, another ending, or a size that an encoder does not take.
    """
    if batch_size < 1:
        raise InputError(
            f"--batch-size {batch_size} holds no image; give 1 or more", field="--batch-size"
        )
    if out is not None and out.suffix not in ENDINGS:
        raise InputError(
            f"--out {out} does not end in {', '.join(ENDINGS)}; the ending chooses", field="--out"
        )
    if len(encoders) == 1:
        encoders = with_options(*encoders.items())
    for encoder in encoders.values():
        for size in sizes:
            encoder.check_img_size(size, "--sizes")
    costs = measure(encoders, sizes, batch_size, torch.device(device))
    shown = table(costs, f"{batch_size} images on {device}")
    Console(width=max(110, Console().width)).print(shown)
    if out is not None:
        rows = [asdict(each) for each in costs]
        content = {
            ".json": lambda: json.dumps({"surroundings": surroundings(), "costs": rows}, indent=1),
            ".csv": lambda: pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"),
            ".md": lambda: page("Cost of encoders", [shown]),
        }
        write_bytes(out, content[out.suffix]().encode())
    return costs


def with_options(named: tuple[str, Encoder]) -> dict[str, Encoder]:
    """Return a ViT's options one at a time, then the ViT itself if it is none of them."""
    name, encoder = named
    if not isinstance(encoder, ViT):
        return {name: encoder}
    same = {
        key: encoder.config[key] for key in ("size", "patch_size", "img_size", "pos_interpolation")
    }
    options: dict[str, Encoder] = {key: ViT(**same, **given) for key, given in OPTIONS.items()}
    without_drop = {**encoder.config, "drop_path": 0.0}  # which costs nothing
    if any(isinstance(each, ViT) and each.config == without_drop for each in options.values()):
        return options
    return {**options, name: encoder}


def measure(
    encoders: Mapping[str, Encoder], sizes: Sequence[int], batch_size: int, device: torch.device
) -> list[Cost]:
    """Return the costs of every encoder at every size, with a progress bar on standard error."""
    costs: list[Cost] = []
    # counting, then two kinds of passes, with one more to warm up
    steps = len(sizes) * len(encoders) * (1 + 2 * (REPEATS + 1))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=steps)

        def tick() -> None:
            progress.advance(task)

        for size in sizes:
            progress.update(task, description=f"{size} px")
            images = torch.randn(batch_size, 3, size, size, device=device)
            passes = [Passes(encoder.to(device).eval(), images) for encoder in encoders.values()]
            counts = []
            for each in passes:
                counts.append((each.parameters(), *each.flops(), each.saved()))
                tick()
            forward = fastest([each.forward for each in passes], REPEATS, device, tick)
            training = fastest([each.train for each in passes], REPEATS, device, tick)
            costs += [
                Cost(name, size, *count, 1000 * batch_size / first, 1000 * batch_size / second)
                for name, count, first, second in zip(
                    encoders, counts, forward, training, strict=True
                )
            ]
    return costs


@dataclass(frozen=True)
class Passes:
    """Passes of an encoder over a batch of images, to measure."""

    encoder: Encoder
    images: torch.Tensor

    def parameters(self) -> int:
        """Count all parameters."""
        return sum(p.numel() for p in self.encoder.parameters())

    def flops(self) -> tuple[int, int]:
        """Count the products of one image, with attention written out so that all are seen.

        Returns:
            FLOPs, and those of them that are attention's: the products of batches of matrices.
        """
        has_attention = hasattr(self.encoder, "blocks")
        counter = FlopCounterMode(display=False)
        with (
            torch.no_grad(),
            record(self.encoder, "attn.weights") if has_attention else nullcontext(),
            sdpa_kernel(SDPBackend.MATH),
            counter,
        ):
            self.encoder(self.images[:1])
        counts = counter.get_flop_counts()["Global"]
        return sum(counts.values()), counts.get(torch.ops.aten.bmm, 0)

    def saved(self) -> int:
        """Count the bytes that an image keeps until backward."""
        weights = list(self.encoder.parameters())
        return saved_bytes(self.represent, weights) // len(self.images)

    def represent(self) -> torch.Tensor:
        """Return a number that depends on all that the encoder returns."""
        tokens = self.encoder(self.images)
        return tokens.cls.sum() + tokens.patches.sum()

    def forward(self) -> None:
        """Take a forward pass without gradients."""
        with torch.no_grad():
            self.encoder(self.images)

    def train(self) -> None:
        """Take a forward and a backward pass."""
        self.represent().backward()
        self.encoder.zero_grad()


def table(costs: Sequence[Cost], title: str) -> Table:
    """Return a table with a row for each encoder and size, ratios to the first encoder beside."""
    shown = Table(title=title, caption=CONVENTION, title_justify="left", caption_justify="left")
    heads = ("encoder", "px", "parameters", "GFLOPs", "in attention", "saved, MiB")
    for head in (*heads, "forward, images/s", "forward + backward, images/s", "time / first"):
        shown.add_column(head, justify="left" if head == "encoder" else "right")
    firsts: dict[int, Cost] = {}
    for each in costs:
        first = firsts.setdefault(each.size, each)
        shown.add_row(
            each.encoder,
            str(each.size),
            f"{each.parameters:,}",
            *(f"{flops / 1e9:.3f}" for flops in (each.flops, each.attention_flops)),
            f"{each.saved / MIB:.1f}",
            *(f"{speed:.2f}" for speed in (each.forward, each.training)),
            f"{first.training / each.training:.3f}",
        )
    return shown
