"""`vitlab cost`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(words: Sequence[str]) -> None:
    """Measure what encoders cost."""
    parser = argparse.ArgumentParser(
        "vitlab cost",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure what encoders cost, side by side: parameters, FLOPs of an image, "
        "bytes it keeps\nuntil backward, images per second forward, and forward and backward. "
        "With one config, every\noption of its ViT is measured beside it: entmax15, specialized, "
        "locality with and without\nrefinement, registers. Nothing is trained, no data are read.",
        epilog="examples:\n"
        "  vitlab cost --config configs/dino_entmax.yaml\n"
        "  vitlab cost --config configs/dino.yaml configs/dino_locat.yaml --sizes 224 "
        "--out cost.md\n"
        "  vitlab cost --config runs/dino/seed0/config.yaml --batch 64 --device cuda",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        required=True,
        help="configs of vitlab fit, or config.yaml of runs; of each, only the encoder is used",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[224, 384, 512],
        help="pixels of image edges, multiples of the patch (default: 224 384 512)",
    )
    parser.add_argument("--batch", type=int, default=4, help="images of a pass (default: 4)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to measure; auto takes the GPU where there is one (default)",
    )
    parser.add_argument(
        "--out", type=Path, help="file to write as well: .json, .md or .csv; replaced at once"
    )
    given = parser.parse_args(words)

    from vitlab.commands.device import choose_device
    from vitlab.profiling.cost import cost
    from vitlab.training.encoder_config import encoder_from_config

    short = len({path.stem for path in given.config}) == len(given.config)
    names = [path.stem if short else str(path) for path in given.config]
    encoders = dict(zip(names, map(encoder_from_config, given.config), strict=True))
    cost(encoders, given.sizes, given.batch, choose_device(given.device), given.out)
