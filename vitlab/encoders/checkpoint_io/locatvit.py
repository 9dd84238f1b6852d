"""LocAtViT (arXiv:2603.04892): timm's names and `attn.gaug.log_var`, `attn.gaug.log_alpha`.

Its patch refinement has no weights, so a file does not show it; it is on, as the authors' default.
Positions are resampled as in timm, on which the supervised models are built, and as in DINO for
the authors' pretraining with DINO, whose checkpoints have student and teacher
(sinahmr/LocAtViT, `models/vit.py` and `evaluations/dino/vision_transformer.py`). Its Swin,
RoPE and Jumbo hosts are other architectures.
"""

from vitlab.encoders.checkpoint_io.family import (
    Family,
    Weights,
    has,
    infer_config,
    refuse,
    remap_pos_embed,
    without,
)
from vitlab.encoders.checkpoint_io.source import Source
from vitlab.encoders.checkpoint_io.timm import PARTS, REASONS
from vitlab.encoders.locality import Locality
from vitlab.encoders.vit import PosInterpolation


def _fits(source: Source) -> bool:
    return source.config is None and has(source, ".attn.gaug.")


def _convert(source: Source) -> Weights:
    refuse(source, {**PARTS, "prr.": "a refinement with weights"})
    state, left_out = without(source.state, REASONS)
    registers = state.get("reg_token")
    state = remap_pos_embed(source, state, 0, 1 + (0 if registers is None else registers.shape[1]))
    rule: PosInterpolation = "dino" if source.branch in ("student", "teacher") else "antialias"
    locality = Locality("gaussian", refine=True)
    return Weights(state, infer_config(source, state, rule, locality=locality), left_out)


LOCATVIT = Family("locatvit", _fits, _convert)
