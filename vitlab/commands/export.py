"""`vitlab export`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlab.commands.parser import parse
from vitlab.encoders import load_pretrained, save
from vitlab.encoders.checkpoint_io import ExportFormat


@dataclass(frozen=True)
class ExportArguments:
    """Write the encoder of a run, or of an exported folder, for vitlab or for timm.

    Of a run of prompts, the backbone is written with them.

    Args:
        weights: best.ckpt or last.ckpt of a run, or an exported folder.
        out: the folder (vitlab) or .safetensors file (timm) to write; must not exist.
        format: vitlab, a folder that describes itself; or timm, tensors in timm's names.
        which: student or teacher, for a run that has both.
        backbone: of a run of prompts, the file of the backbone, where it has moved since.
    """

    weights: Path
    out: Path
    format: ExportFormat = "vitlab"
    which: str = ""
    backbone: str = ""


def run(words: Sequence[str]) -> None:
    """Run `vitlab export`."""
    given = parse(ExportArguments, words, "vitlab export")
    loaded = load_pretrained(given.weights, "vitlab", given.which, backbone=given.backbone)
    save(loaded.encoder, given.out, given.format, loaded.origin)
    print(loaded.report)
