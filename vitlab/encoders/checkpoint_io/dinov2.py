"""DINOv2 (arXiv:2304.07193), without and with registers (arXiv:2309.16588).

Names are timm's but `register_tokens`, `mask_token`, and blocks in chunks (`blocks.0.7.norm1`) in
checkpoints of pretraining. Registers have no positions; [CLS] has one. Positions are resampled as
in DINO without registers, and to the exact size with antialiasing with them, as the released
models are built (facebookresearch/dinov2, `hub/backbones.py`: interpolate_offset 0.1 without
antialias, 0.0 with). The giant size has a gated MLP and no counterpart here.
"""

import re

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

_REASONS = {"mask_token": "token of masked patches, of use in pretraining alone"}


def _fits(source: Source) -> bool:
    return source.config is None and has(source, "mask_token", "register_tokens")


def _convert(source: Source) -> Weights:
    refuse(source, {"mlp.w12.": "a gated MLP (SwiGLU, the giant size)"})
    state, left_out = without(source.state, _REASONS)
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", k): v for k, v in state.items()}
    registers = state.pop("register_tokens", None)
    if registers is not None:
        state["reg_token"] = registers
    state = remap_pos_embed(source, state, 1)
    rule = infer_config(source, state, "dino" if registers is None else "antialias")
    return Weights(state, rule, left_out)


DINOV2 = Family("dinov2", _fits, _convert)
