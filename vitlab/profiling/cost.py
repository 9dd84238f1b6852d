"""Cost of encoders: parameters, FLOPs, activation memory and throughput, side by side."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlab.activation_memory import saved_bytes
from vitlab.atomic_io import write_bytes, write_json
from vitlab.encoders import CLSSpecialization, Encoder, Locality, ViT, record
from vitlab.errors import InputError
from vitlab.profiling.timing import MIB, fastest, page, surroundings
from vitlab.terminal import console

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


def cost(
    encoders: Mapping[str, Encoder],
    sizes: Sequence[int] = (224, 384, 512),
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    out: Path | None = None,
) -> pd.DataFrame:
    """Measure encoders, print a table with a row for each, and write it where asked.

    Args:
        encoders: by name; the options of a single ViT are measured beside it.
        sizes: pixels of image edges.
        batch_size: images of a pass.
        device: where to measure.
        out: file to write: .json, .md or .csv.

    Returns:
        The costs, see `measure`.

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
    with console(stderr=True).status("measuring ..."):
        costs = measure(encoders, sizes, batch_size, torch.device(device))
    text = f"{batch_size} images on {device}\n\n{tabulate(costs)}\n\n{CONVENTION}"
    print(text)
    if out is not None and out.suffix == ".json":
        write_json(out, {"surroundings": surroundings(), "costs": costs.to_dict("records")})
    elif out is not None:
        csv = costs.to_csv(index=False, lineterminator="\n")
        write_bytes(
            out, (csv if out.suffix == ".csv" else page("Cost of encoders", [text])).encode()
        )
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
) -> pd.DataFrame:
    """Measure every encoder at every size.

    Returns:
        A row for each, with columns encoder; size, in pixels; parameters; flops of a forward pass
        of one image; attention_flops, those of them that are scores and values of attention; saved,
        the bytes that an image keeps until backward; forward and training, the images per second
        of a forward pass without gradients, and of a forward and a backward pass.
    """
    rows = []
    for size in sizes:
        images = torch.randn(batch_size, 3, size, size, device=device)
        passes = [Passes(encoder.to(device).eval(), images) for encoder in encoders.values()]
        counts = [(each.parameters(), *each.flops(), each.saved()) for each in passes]
        forward = fastest([each.forward for each in passes], REPEATS, device)
        training = fastest([each.train for each in passes], REPEATS, device)
        for name, count, *times in zip(encoders, counts, forward, training, strict=True):
            rows.append((name, size, *count, *(1000 * batch_size / time for time in times)))
    names = "encoder size parameters flops attention_flops saved forward training"
    return pd.DataFrame(rows, columns=names.split())


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


def tabulate(costs: pd.DataFrame) -> str:
    """Return the costs as a Markdown table, with times as ratios to the first encoder."""
    first = costs.groupby("size")["training"].transform("first")
    shown = {
        "encoder": costs["encoder"],
        "px": costs["size"],
        "parameters": costs["parameters"].map("{:,}".format),
        "GFLOPs": (costs["flops"] / 1e9).map("{:.3f}".format),
        "in attention": (costs["attention_flops"] / 1e9).map("{:.3f}".format),
        "saved, MiB": (costs["saved"] / MIB).map("{:.1f}".format),
        "forward, images/s": costs["forward"].map("{:.2f}".format),
        "and backward": costs["training"].map("{:.2f}".format),
        "time / first": (first / costs["training"]).map("{:.3f}".format),
    }
    align = ["left", *["right"] * (len(shown) - 1)]
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True, colalign=align)
