"""`vitlab cost`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vitlab.commands.parser import call

EXAMPLES = """\
examples:
  vitlab cost --config configs/dino_entmax.yaml
  vitlab cost --config configs/dino.yaml configs/dino_locat.yaml --sizes 224 --out cost.md
  vitlab cost --config runs/dino/seed0/config.yaml --batch-size 64 --device cuda
"""


def run(words: Sequence[str]) -> None:
    """Run `vitlab cost`."""
    call(_cost, words, "vitlab cost", EXAMPLES)


def _cost(
    config: list[Path],
    sizes: tuple[int, ...] = (224, 384, 512),
    batch_size: int = 4,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: Path | None = None,
) -> None:
    """Measure the cost of encoders: parameters, FLOPs, activation memory, images per second.

    FLOPs and memory are those of an image; throughput is that of a forward pass, and of a forward
    and a backward pass. With one config, every option of its ViT is measured beside it: entmax15,
    specialized, locality with and without refinement, registers. No data are read.

    Args:
        config: of vitlab fit, or config.yaml of runs; of each, only the encoder is used
        sizes: pixels of image edges, multiples of the patch
        batch_size: images of a pass
        device: auto is a GPU where there is one
        out: file to write as well, .json, .md or .csv; replaced at once
    """
    from vitlab.commands.device import choose_device
    from vitlab.profiling.cost import cost
    from vitlab.training.encoder_config import encoder_from_config

    unique = len({path.stem for path in config}) == len(config)
    encoders = {path.stem if unique else str(path): encoder_from_config(path) for path in config}
    cost(encoders, sizes, batch_size, choose_device(device), out)
