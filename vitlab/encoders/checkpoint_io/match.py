"""Tensors of a file to tensors of an encoder, and the report on all."""

import re
from dataclasses import dataclass, field

import torch

from vitlab.encoders.checkpoint_io.files import CheckpointSource, StateDict, few
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.prompted_vit import backbone_of
from vitlab.encoders.vit import ViT, resample
from vitlab.errors import InputError


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file and of an encoder.

    Attributes:
        matched: tensors of the encoder that were read.
        resized: those of them that were resampled to the encoder's grid.
        copied: tensors of the encoder that got a copy of a plain layer's, see `CLSSpecialization`.
        missing_keys: tensors of the encoder that the file lacks; they keep their initial values.
        unexpected_keys: tensors of the file that the encoder lacks.
        ignored: tensors of the file that belong to no encoder, such as classifiers, and what they
            are; they do not count against `full`.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether no key is missing and none unexpected."""
        return not self.missing_keys and not self.unexpected_keys

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors read"]
        for name in ("resized", "copied", "missing_keys", "unexpected_keys"):
            if names := getattr(self, name):
                parts.append(f"{len(names)} {name.removesuffix('_keys')} ({few(names)})")
        if self.ignored:
            reasons = ", ".join(sorted(set(self.ignored.values())))
            parts.append(f"{len(self.ignored)} ignored ({reasons})")
        return "; ".join(parts)


def match(encoder: Encoder, source: CheckpointSource) -> tuple[StateDict, LoadReport]:
    """Return the tensors to load into an encoder, and the report on all.

    Raises:
        InputError: a tensor has another shape.
    """
    wanted, given = backbone_of(encoder).state_dict(), dict(source.state)
    resized = _resize(given, encoder, source)
    copied = []
    for key in wanted:
        plain = re.sub(r"_cls(?=\.)", "", key)
        if key not in given and plain in given:
            given[key] = given[plain]
            copied.append(key)
    if copied and encoder.config["cls_specialization"].init == "random":
        raise InputError(
            f"{source.path} lacks the copies for [CLS], and cls_specialization.init random would "
            "give them other weights than the plain layers have; use init clone",
            field="cls_specialization.init",
        )
    matched = [key for key in wanted if key in given]
    shapes = [
        f"{key} {tuple(given[key].shape)} in place of {tuple(wanted[key].shape)}"
        for key in matched
        if given[key].shape != wanted[key].shape
    ]
    if shapes:
        raise InputError(
            f"{source.path} is of another size than the encoder: {few(shapes)}. Give weights of "
            "this size, or an encoder of theirs",
            field=source.path.name,
        )
    report = LoadReport(
        matched=tuple(key for key in matched if key not in copied),
        resized=resized,
        copied=tuple(copied),
        missing_keys=tuple(key for key in wanted if key not in given),
        unexpected_keys=tuple(key for key in given if key not in wanted),
        ignored=source.ignored,
    )
    return {key: given[key] for key in matched}, report


def _resize(state: StateDict, encoder: Encoder, source: CheckpointSource) -> tuple[str, ...]:
    """Resample the positions of a ViT by the family's rule; return their name if so."""
    table, vit = state.get("pos_embed"), backbone_of(encoder)
    if not isinstance(vit, ViT) or table is None or table.ndim != 3:
        return ()
    count = table.shape[1] - 1
    # what is no square grid is left to the comparison of shapes
    edge = round(count**0.5)
    if edge**2 != count or (edge, edge) == vit.grid or not edge:
        return ()
    rule = (source.spec or {})["init_args"].get("pos_interpolation", "size")
    patches = resample(table[:, 1:].float(), (edge, edge), vit.grid, rule)
    state["pos_embed"] = torch.cat([table[:, :1].float(), patches], dim=1)
    return ("pos_embed",)
