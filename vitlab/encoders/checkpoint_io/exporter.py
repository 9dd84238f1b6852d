"""Encoders to files: vitlab's folder with all options, or a plain ViT for timm."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save as to_bytes

from vitlab.atomic_io import write_bytes, write_json
from vitlab.encoders.checkpoint_io.files import CONFIG, WEIGHTS, ExportConfig, StateDict
from vitlab.encoders.checkpoint_io.report import few
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.entmax.normalizer import SOFTMAX, get_normalizer
from vitlab.encoders.prompted_vit import backbone_of
from vitlab.encoders.vit import ViT
from vitlab.errors import InputError

ExportFormat = Literal["vitlab", "timm"]


def save(
    encoder: Encoder, path: str | Path, format: ExportFormat = "vitlab", origin: str = "vitlab"
) -> None:
    """Write an encoder, at once or not at all.

    Args:
        encoder: any, with its prompts; for timm, a ViT without options that timm lacks.
        path: the new folder (vitlab: `config.json` and `model.safetensors`, which `load` reads
            exactly) or file (timm).
        format: "vitlab", or "timm" for a .safetensors file in timm's names, with the arguments of
            timm's VisionTransformer as JSON under "timm" in its metadata. At other sizes than its
            own, timm resamples positions by its own rule, `pos_interpolation="antialias"`.
        origin: family that the weights were imported from, kept in the folder.

    Raises:
        InputError: the path exists, or timm cannot express the encoder.
    """
    path = Path(path)
    if format == "timm":
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path} is to hold weights for timm; give a name in .safetensors", field="--out"
            )
        state, settings = for_timm(encoder)
    else:
        config = ExportConfig(**encoder.spec(), origin=origin)
    if path.exists():
        raise InputError(
            f"{path} exists, and is not overwritten; name another path or remove it", field="--out"
        )
    if format == "timm":
        write_bytes(path, to_bytes(state, {"format": "pt", "timm": json.dumps(settings)}))
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_bytes(aside / WEIGHTS, to_bytes(tensors_of(encoder), {"format": "pt"}))
        write_json(aside / CONFIG, vars(config))
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def for_timm(encoder: Encoder) -> tuple[StateDict, dict[str, Any]]:
    """Return the tensors in timm's names, and the arguments of its VisionTransformer.

    timm gives positions to all tokens before the patches or to none. With registers, which have
    none, that of [CLS] is added to it, as timm does with DINOv2's.

    Raises:
        InputError: the encoder is no ViT, or has an option that timm lacks.
    """
    state, config, vit = tensors_of(encoder), encoder.config, backbone_of(encoder)
    reasons = []
    if not isinstance(vit, ViT):
        raise InputError(
            f"timm's VisionTransformer cannot express {type(encoder).__name__}; export with "
            "format=vitlab, which vitlab.load reads",
            field="--format",
        )
    if split := [key for key in state if "_cls." in key]:
        reasons.append(f"separate weights for [CLS] (cls_specialization: {few(split, 2)})")
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
        raise InputError(
            f"timm's VisionTransformer has no {', no '.join(reasons)}, and would compute something "
            "else from the same names; export with format=vitlab, which vitlab.load reads",
            field="--format",
        )
    settings = {
        "img_size": config["img_size"],
        "patch_size": vit.patch_size,
        "num_classes": 0,
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.num_heads,
        "init_values": config["layer_scale"] or None,
        "reg_tokens": config["num_registers"],
        "no_embed_class": config["num_registers"] > 0,
        "dynamic_img_size": True,
    }
    if config["num_registers"]:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    return state, settings


def tensors_of(encoder: Encoder) -> StateDict:
    """Return all tensors of an encoder, contiguous on the CPU."""
    state = backbone_of(encoder).state_dict()
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
