"""`vitlab import`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlab.commands.parser import parse
from vitlab.encoders import load_pretrained, save
from vitlab.encoders.checkpoint_io import FamilyName


@dataclass(frozen=True)
class ImportArguments:
    """Convert weights of DINO, DINOv2, DeiT, timm or LocAtViT to a folder that vitlab reads.

    Args:
        weights: a .pth, .pt, .ckpt or .safetensors file.
        out: the folder to write; must not exist.
        family: of the weights; auto where the tensors show it.
        which: the model to take where a file holds several: student, teacher, model_ema, ...
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights.
        partial: allow missing and unexpected tensors.
    """

    weights: Path
    out: Path
    family: FamilyName = "auto"
    which: str = ""
    img_size: int = 0
    partial: bool = False


def run(words: Sequence[str]) -> None:
    """Run `vitlab import`."""
    given = parse(ImportArguments, words, "vitlab import")
    loaded = load_pretrained(
        given.weights, given.family, given.which, given.img_size, given.partial
    )
    save(loaded.encoder, given.out, origin=loaded.origin)
    print(loaded.report)
