"""Vision transformers of timm (huggingface/pytorch-image-models), whose names are ours.

Positions cover the patches and all tokens before them, or the patches alone (`no_embed_class`).
They are resampled to the exact size, bicubic, antialiased (`resample_abs_pos_embed`), whether
weights are loaded or run with `dynamic_img_size`.
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

REASONS = {"head": "classifier", "head_dist": "classifier of the distillation token"}
PARTS = {
    "q_norm.": "normalized queries and keys",
    "norm_pre.": "a norm before the blocks",
    "patch_embed.norm.": "a norm of the patches",
    "fc_norm.": "a norm after pooling in place of the final norm",
    "attn_pool.": "pooling by attention",
    "mlp.fc1_g.": "a gated MLP",
    "mlp.norm.": "a norm inside the MLP",
    "attn.norm.": "a norm inside the attention",
}


def _fits(source: Source) -> bool:
    foreign = ("gamma_1", "register_tokens", "mask_token", "gaug")
    bare = source.branch in ("", "state_dict", "state_dict_ema")
    return source.config is None and bare and not has(source, *foreign)


def _convert(source: Source) -> Weights:
    refuse(source, PARTS)
    state, left_out = without(source.state, REASONS)
    registers = state.get("reg_token", state.get("dist_token"))
    state = remap_pos_embed(source, state, 0, 1 + (0 if registers is None else registers.shape[1]))
    return Weights(state, infer_config(source, state, "antialias"), left_out)


TIMM = Family("timm", _fits, _convert)
