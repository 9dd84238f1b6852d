"""DeiT (arXiv:2012.12877), plain and distilled, and DeiT-III (arXiv:2204.07118).

Files hold the tensors under "model", in timm's names; DeiT-III writes LayerScale as `gamma_1` and
`gamma_2`, and gives [CLS] no position. The distillation token follows [CLS] and has a position: a
register by another name. Positions are resampled to the exact size, bicubic, not antialiased
(facebookresearch/deit, `main.py`, fine-tuning at another resolution).
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

_REASONS = {"head": "classifier", "head_dist": "classifier of the distillation token"}
_PARTS = {
    "attn1.": "two attentions side by side",
    "patch_embed.proj.0.": "a convolutional stem",
    "blocks_token_only": "class attention (CaiT)",
}


def _fits_deit(source: Source) -> bool:
    foreign = ("ls1.", "gamma_1", "reg_token", "mask_token", "gaug")
    released = source.branch in ("", "model", "model_ema") and has(source, "head.", "head_dist.")
    return source.config is None and released and not has(source, *foreign)


def _convert_deit(source: Source) -> Weights:
    refuse(source, _PARTS)
    state, left_out = without(source.state, _REASONS)
    state = remap_pos_embed(source, state, 2 if "dist_token" in state else 1)
    return Weights(state, infer_config(source, state, "size"), left_out)


def _fits_deit3(source: Source) -> bool:
    return source.config is None and has(source, "gamma_1")


def _convert_deit3(source: Source) -> Weights:
    refuse(source, _PARTS)
    state, left_out = without(source.state, _REASONS)
    state = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", k): v for k, v in state.items()}
    state = remap_pos_embed(source, state, 0)
    return Weights(state, infer_config(source, state, "size"), left_out)


DEIT = Family("deit", _fits_deit, _convert_deit)
DEIT3 = Family("deit3", _fits_deit3, _convert_deit3)
