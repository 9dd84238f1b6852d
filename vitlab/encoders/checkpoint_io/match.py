"""Tensors of a file to tensors of an encoder."""

import re
from typing import Any

import torch

from vitlab.encoders.checkpoint_io.files import StateDict
from vitlab.encoders.checkpoint_io.report import LoadReport, few
from vitlab.encoders.checkpoint_io.source import CheckpointSource
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.prompted_vit import backbone_of
from vitlab.encoders.vit import ViT, resample
from vitlab.errors import InputError


def match(encoder: Encoder, source: CheckpointSource) -> tuple[StateDict, LoadReport]:
    """Return the tensors to load into an encoder, and the report on all.

    Raises:
        InputError: a tensor has another shape.
    """
    wanted, given = backbone_of(encoder).state_dict(), dict(source.state)
    resized = _resize(given, encoder, (source.spec or {})["init_args"])
    copied = []
    for key in wanted:
        plain = re.sub(r"_cls(?=\.)", "", key)
        if key not in given and plain in given:
            given[key] = given[plain]
            copied.append(key)
    if copied and encoder.config["cls_specialization"].init == "random":
        raise InputError(
            f"{source.path} lacks the copies for [CLS], and cls_specialization.init random would "
            "give them other weights than the plain layers have; use init clone to begin with "
            "those",
            field="cls_specialization.init",
        )
    shapes = [
        f"{key} {tuple(given[key].shape)} in place of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if shapes:
        raise InputError(
            f"{source.path} is of another size than the encoder: {few(shapes)}. Give weights of "
            "this size, or an encoder of theirs",
            field=source.path.name,
        )
    report = LoadReport(
        matched=tuple(key for key in wanted if key in given and key not in copied),
        resized=resized,
        copied=tuple(copied),
        missing_keys=tuple(key for key in wanted if key not in given),
        unexpected_keys=tuple(key for key in given if key not in wanted),
        ignored=source.ignored,
    )
    return {key: given[key] for key in wanted if key in given}, report


def _resize(state: StateDict, encoder: Encoder, config: dict[str, Any]) -> tuple[str, ...]:
    """Resample the positions of a ViT by the family's rule; return their name if so."""
    table, vit = state.get("pos_embed"), backbone_of(encoder)
    if not isinstance(vit, ViT) or table is None or table.ndim != 3:
        return ()
    count = table.shape[1] - 1
    # what is no square grid is left to the comparison of shapes
    edge = round(count**0.5)
    if edge**2 != count or (edge, edge) == vit.grid or not edge:
        return ()
    rule = config.get("pos_interpolation", "size")
    patches = resample(table[:, 1:].float(), (edge, edge), vit.grid, rule)
    state["pos_embed"] = torch.cat([table[:, :1].float(), patches], dim=1)
    return ("pos_embed",)
