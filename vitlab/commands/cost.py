"""`vitlab cost`."""

from functools import partial
from pathlib import Path
from typing import Literal

from vitlab.commands.parser import call

EXAMPLES = """\
examples:
  vitlab cost --config configs/dino_entmax.yaml
  vitlab cost --config configs/dino.yaml configs/dino_locat.yaml --sizes 224 --out cost.md
  vitlab cost --config dino --config demo --sizes 64      # an overlay, as for fit
  vitlab cost --config runs/dino/seed0/config.yaml --batch-size 64 --device cuda
"""


def _cost(
    config: list[str],
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
        config: of vitlab fit, or config.yaml of runs; of each, only the encoder is used; one
            without an encoder's class, such as demo, overlays all before it
        sizes: pixels of image edges, multiples of the patch
        batch_size: images of a pass
        device: auto is a GPU where there is one
        out: file to write as well, .json, .md or .csv; replaced at once
    """
    from vitlab.commands.device import choose_device
    from vitlab.profiling.cost import cost
    from vitlab.training.encoder_config import encoder_from_config, group_overlays

    found = group_overlays(config)
    arms = {"-".join(path.stem for path in arm): arm for arm in found}
    if len(arms) < len(found):
        arms = {" ".join(map(str, arm)): arm for arm in found}
    encoders = {name: encoder_from_config(arm) for name, arm in arms.items()}
    cost(encoders, sizes, batch_size, choose_device(device), out)


run = partial(call, _cost, prog="vitlab cost", examples=EXAMPLES)
