"""Our encoder into files: for ourselves with all its options, for timm where it is a plain one."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from vitlab.encoders.checkpoint_io.files import StateDict, write_file, write_folder
from vitlab.encoders.checkpoint_io.importer import FamilyName, load_pretrained
from vitlab.encoders.checkpoint_io.report import LoadReport, few
from vitlab.encoders.cls_specialization import CLSSpecialization
from vitlab.encoders.entmax.normalizer import SOFTMAX, Normalizer, get_normalizer
from vitlab.encoders.locality import Locality
from vitlab.encoders.prompted_vit import PromptedViT, backbone_of
from vitlab.encoders.prompts import Prompts
from vitlab.encoders.vit import SHAPES, ViT

ExportFormat = Literal["vitlab", "timm"]
_NESTED = (Normalizer, CLSSpecialization, Locality, Prompts)


def save(
    encoder: ViT | PromptedViT,
    path: str | Path,
    format: ExportFormat = "vitlab",
    origin: str = "vitlab",
) -> None:
    """Write an encoder, at once or not at all.

    Args:
        encoder: any ViT, its prompts with it; for timm, one without options that timm lacks.
        path: of the folder (vitlab: `config.json` and `model.safetensors`, which `load` reads back
            exactly) or file (timm); must not exist.
        format: "vitlab", or "timm" for a .safetensors file in timm's names, with the arguments of
            timm's VisionTransformer as JSON under "timm" in its metadata. At other sizes than its
            own, timm resamples positions by its own rule, `pos_interpolation="antialias"`.
        origin: family that the weights were imported from, which a folder remembers.

    Raises:
        ValueError: the path exists, or timm cannot express the encoder.
    """
    path = Path(path)
    if format == "timm":
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is to hold weights for timm; give a name in .safetensors")
        state, settings = for_timm(encoder)
        write_file(path, state, {"timm": json.dumps(settings)})
        return
    config = {
        name: dataclasses.asdict(value) if isinstance(value, _NESTED) else value
        for name, value in encoder.config.items()
    }
    write_folder(path, config, _plain(encoder), origin)


def for_timm(encoder: ViT | PromptedViT) -> tuple[StateDict, dict[str, Any]]:
    """Return the tensors in timm's names, and the arguments of its VisionTransformer.

    timm gives positions to all tokens before the patches or to none. With registers, which have
    none, that of [CLS] is added to it, as timm does with DINOv2's.

    Raises:
        ValueError: the encoder has an option that timm lacks.
    """
    state, config = _plain(encoder), encoder.config
    reasons = []
    if roles := [key for key in state if "_cls." in key]:
        reasons.append(f"weights of its own for [CLS] (cls_specialization: {few(roles, 2)})")
    if (kind := config["locality"].kind) != "none":  # of which not all have tensors
        bias = [key for key in state if ".gaug." in key]
        reasons.append(f"bias on its logits (locality.kind: {few([kind, *bias], 3)})")
    if any(".prompts." in key for key in state):
        reasons.append("prompts (prompts)")
    if config["locality"].refine:
        reasons.append("patch refinement (locality.refine)")
    if get_normalizer(config["normalizer"]) != SOFTMAX:
        reasons.append(f"{config['normalizer']} attention (normalizer)")
    if reasons:
        raise ValueError(
            f"timm's VisionTransformer has no {', no '.join(reasons)}, and would compute something "
            "else from the same names; export with format=vitlab, which vitlab.load reads"
        )
    shape = SHAPES[config["size"]]
    settings = {
        "img_size": config["img_size"],
        "patch_size": encoder.patch_size,
        "num_classes": 0,
        "embed_dim": shape.embed_dim,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
        "init_values": config["layer_scale"] or None,
        "reg_tokens": config["num_registers"],
        "no_embed_class": config["num_registers"] > 0,
        "dynamic_img_size": True,
    }
    if config["num_registers"]:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    return state, settings


def _plain(encoder: ViT | PromptedViT) -> StateDict:
    state = backbone_of(encoder).state_dict()
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def export(
    weights: Path, out: Path, format: ExportFormat = "vitlab", which: str = "", backbone: str = ""
) -> LoadReport:
    """Write the encoder of a run, or of an exported folder, for ourselves or for timm.

    Of a run of prompts, the backbone is written with them.

    Args:
        weights: best.ckpt or last.ckpt of a run, or a folder exported before.
        out: the folder (vitlab) or .safetensors file (timm) to write; must not exist.
        format: vitlab, a folder that describes itself; or timm, tensors in timm's names.
        which: student or teacher, for a run that has both.
        backbone: of a run of prompts, the backbone's file, where it is no longer where the run had
            it.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: the source cannot be read, the output exists, or timm cannot express it.
    """
    imported = load_pretrained(weights, "vitlab", which, backbone=backbone)
    save(imported.encoder, out, format, imported.origin)
    return imported.report


def import_weights(
    weights: Path,
    out: Path,
    family: FamilyName = "auto",
    which: str = "",
    img_size: int = 0,
    partial: bool = False,
) -> LoadReport:
    """Turn weights of others into a folder that vitlab reads.

    Args:
        weights: a .pth, .pt, .ckpt or .safetensors file.
        out: the folder to write; must not exist.
        family: whose weights they are; auto where the tensors show it.
        which: the model to take where a file holds several: student, teacher, model_ema ...
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights.
        partial: whether tensors may be missing or unused.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: the weights cannot be read or do not cover the encoder, or the output exists.
    """
    imported = load_pretrained(weights, family, which, img_size, partial)
    save(imported.encoder, out, origin=imported.origin)
    return imported.report
