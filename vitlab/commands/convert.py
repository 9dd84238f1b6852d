"""`vitlab import` and `vitlab export`."""

from functools import partial
from pathlib import Path

from vitlab.commands.parser import call
from vitlab.option_types import ExportFormat, FamilyName
from vitlab.terminal import say


def _import(
    weights: Path,
    out: Path,
    family: FamilyName = "auto",
    which: str = "",
    img_size: int = 0,
    partial: bool = False,
) -> None:
    """Convert weights of DINO, DINOv2, DeiT, timm or LocAtViT to a folder that vitlab reads.

    Args:
        weights: a .pth, .pt, .ckpt or .safetensors file.
        out: the folder to write; must not exist.
        family: of the weights; auto where the tensors show it.
        which: the model to take where a file holds several: student, teacher, model_ema, ...
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights.
        partial: allow unexpected tensors, and missing biases, which are 0.
    """
    from vitlab.encoders import load_pretrained, save

    loaded = load_pretrained(weights, family, which, img_size, partial)
    save(loaded.encoder, out, origin=loaded.origin)
    say(str(loaded.report))


def _export(
    weights: Path,
    out: Path,
    format: ExportFormat = "vitlab",
    which: str = "",
    backbone: str = "",
    img_size: int = 0,
) -> None:
    """Write the encoder of a run, or of an exported folder, for vitlab or for timm.

    Of a run of prompts, the backbone is written with them.

    Args:
        weights: best.ckpt or last.ckpt of a run, or an exported folder.
        out: the folder (vitlab) or .safetensors file (timm) to write; must not exist.
        format: vitlab, a folder that describes itself; or timm, tensors in timm's names.
        which: student or teacher, for a run that has both.
        backbone: of a run of prompts, the file of the backbone, where it has moved since.
        img_size: pixels of the image edge to resample positions for; 0 for that of the weights.
    """
    from vitlab.encoders import load_pretrained, save
    from vitlab.encoders.checkpoint_io.exporter import timm_positions

    loaded = load_pretrained(weights, "vitlab", which, img_size, backbone=backbone)
    save(loaded.encoder, out, format, loaded.origin)
    say(str(loaded.report))
    if format == "timm":
        say(timm_positions(loaded.encoder))


import_weights = partial(call, _import, prog="vitlab import")
export_weights = partial(call, _export, prog="vitlab export")
