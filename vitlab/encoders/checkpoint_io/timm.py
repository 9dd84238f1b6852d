"""Vision transformers of timm (huggingface/pytorch-image-models), whose names are ours.

Positions cover the patches and all tokens before them, or the patches alone (`no_embed_class`).
They are resampled to the exact size, bicubic, antialiased (`resample_abs_pos_embed`), whether
weights are loaded or run with `dynamic_img_size`.
"""

from vitlab.encoders.checkpoint_io.family import CLASSIFIERS, Family
from vitlab.encoders.checkpoint_io.source import CheckpointSource

REFUSED = {
    "q_norm.": "normalized queries and keys",
    "norm_pre.": "a norm before the blocks",
    "patch_embed.norm.": "a norm of the patches",
    "fc_norm.": "a norm after pooling in place of the final norm",
    "attn_pool.": "pooling by attention",
    "mlp.fc1_g.": "a gated MLP",
    "mlp.norm.": "a norm inside the MLP",
    "attn.norm.": "a norm inside the attention",
}


def _fits(source: CheckpointSource) -> bool:
    foreign = ("gamma_1", "register_tokens", "mask_token", "gaug")
    return source.branch in ("", "state_dict", "state_dict_ema") and not source.has(*foreign)


TIMM = Family(
    "timm",
    _fits,
    lambda _: "antialias",
    lambda registers: (0, 1 + registers),
    ignored=CLASSIFIERS,
    refused=REFUSED,
)
