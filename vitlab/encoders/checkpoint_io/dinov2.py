"""DINOv2 (arXiv:2304.07193), without and with registers (arXiv:2309.16588).

Names are timm's but `register_tokens`, `mask_token`, and blocks in chunks (`blocks.0.7.norm1`) in
checkpoints of pretraining. Registers have no positions; [CLS] has one. Positions are resampled as
in DINO without registers, and to the exact size with antialiasing with them, as the released
models are built (facebookresearch/dinov2, `hub/backbones.py`: interpolate_offset 0.1 without
antialias, 0.0 with). The giant size has a gated MLP and no counterpart here.
"""

from vitlab.encoders.checkpoint_io.family import Family

DINOV2 = Family(
    "dinov2",
    lambda source: source.has("mask_token", "register_tokens"),
    lambda source: "antialias" if "register_tokens" in source.state else "dino",
    lambda _: (1,),
    ignored={"mask_token": "token of masked patches, used in pretraining alone"},
    refused={"mlp.w12.": "a gated MLP (SwiGLU, the giant size)"},
    renamed={r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.", r"^register_tokens$": "reg_token"},
)
