"""Encoders to files: vitlab's folder with all options, or a plain ViT for timm."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes

from vitlab.atomic_io import write_bytes, write_json
from vitlab.encoders.checkpoint_io.files import CONFIG, WEIGHTS, ExportConfig, StateDict
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.entmax.normalizer import SOFTMAX, get_normalizer
from vitlab.encoders.prompted_vit import backbone_of
from vitlab.encoders.vit import ViT
from vitlab.errors import InputError
from vitlab.option_types import ExportFormat


def save(
    encoder: Encoder, path: str | Path, format: ExportFormat = "vitlab", origin: str = "vitlab"
) -> None:
    """Write an encoder, at once or not at all.

    Args:
        encoder: any, with its prompts; for timm, a ViT without options that timm lacks.
        path: the new folder (vitlab: `config.json` and `model.safetensors`, which `load` reads
            exactly) or file (timm).
        format: "vitlab", or "timm" for a .safetensors file in timm's names, with the arguments of
            timm's VisionTransformer as JSON under "timm" in its metadata, and how positions are
            resampled under "pos_interpolation" and "positions", see `timm_positions`.
        origin: family that the weights were imported from, kept in the folder.

    Raises:
        InputError: the path exists, or timm cannot express the encoder.
    """
    path, for_folder = Path(path), format == "vitlab"
    state = backbone_of(encoder).state_dict()
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    config = ExportConfig(**encoder.spec(), origin=origin) if for_folder else None
    settings = {} if for_folder else _for_timm(encoder, state)
    if path.exists() or not (for_folder or path.suffix == ".safetensors"):
        raise InputError(
            f"{path} exists, and is not overwritten, or is not named .safetensors, as weights for "
            "timm are; give another name",
            field="--out",
        )
    if config is None:
        rule = encoder.config["pos_interpolation"]
        stated = {"pos_interpolation": rule, "positions": timm_positions(encoder)}
        write_bytes(path, to_bytes(state, {"format": "pt", "timm": json.dumps(settings), **stated}))
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_bytes(aside / WEIGHTS, to_bytes(state, {"format": "pt"}))
        write_json(aside / CONFIG, vars(config))
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _for_timm(encoder: Encoder, state: StateDict) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer, and change the tensors to its names.

    timm gives positions to all tokens before the patches or to none. With registers, which have
    none, that of [CLS] is added to it, as timm does with DINOv2's.

    Raises:
        InputError: the encoder is no ViT, or has an option that timm lacks.
    """
    config, vit = encoder.config, backbone_of(encoder)
    lacking = [type(encoder).__name__]
    if isinstance(vit, ViT):
        options = {
            "cls_specialization": any("_cls." in key for key in state),
            "prompts": any(".prompts." in key for key in state),
            "locality.kind": config["locality"].kind != "none",  # of which not all have tensors
            "locality.refine": config["locality"].refine,
            "normalizer": get_normalizer(config["normalizer"]) != SOFTMAX,
        }
        lacking = [name for name, is_set in options.items() if is_set]
    if lacking or not isinstance(vit, ViT):
        raise InputError(
            f"timm's VisionTransformer has no {', no '.join(lacking)}, and would compute something "
            "else from the same names; export with format=vitlab, which vitlab.load reads",
            field="--format",
        )
    registers = config["num_registers"]
    if registers:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    return {
        "img_size": config["img_size"],
        "patch_size": vit.patch_size,
        "num_classes": 0,
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.num_heads,
        "init_values": config["layer_scale"] or None,
        "reg_tokens": registers,
        "no_embed_class": registers > 0,
        "dynamic_img_size": config["pos_interpolation"] == "antialias",
    }


def timm_positions(encoder: Encoder) -> str:
    """Return for which image sizes a file for timm is exact.

    timm resamples positions by one rule alone; a model made to resample by another one takes
    images of its own size only, so that none is encoded otherwise without a word.
    """
    rule, size = encoder.config["pos_interpolation"], encoder.config["img_size"]
    if rule == "antialias":
        return "positions are resampled by timm's rule: exact at every image size"
    return (
        f"positions are resampled by rule {rule!r}, which timm lacks: exact at {size} px; other "
        "sizes are refused (dynamic_img_size is false); for N px, export again with --img-size N"
    )
