"""DeiT (arXiv:2012.12877), plain and distilled, and DeiT-III (arXiv:2204.07118).

Files hold the tensors under "model", in timm's names; DeiT-III writes LayerScale as `gamma_1` and
`gamma_2`, and gives [CLS] no position. The distillation token follows [CLS] and has a position: a
register by another name. Positions are resampled to the exact size, bicubic, not antialiased
(facebookresearch/deit, `main.py`, fine-tuning at another resolution).
"""

from vitlab.encoders.checkpoint_io.family import CLASSIFIERS, Family
from vitlab.encoders.checkpoint_io.source import CheckpointSource

_REFUSED = {
    "attn1.": "two attentions side by side",
    "patch_embed.proj.0.": "a convolutional stem",
    "blocks_token_only": "class attention (CaiT)",
}


def _fits(source: CheckpointSource) -> bool:
    foreign = ("ls1.", "gamma_1", "reg_token", "mask_token", "gaug")
    released = source.branch in ("", "model", "model_ema") and source.has("head.", "head_dist.")
    return released and not source.has(*foreign)


DEIT = Family(
    "deit",
    _fits,
    lambda _: "size",
    lambda registers: (1 + registers,),
    ignored=CLASSIFIERS,
    refused=_REFUSED,
)
DEIT3 = Family(
    "deit3",
    lambda source: source.has("gamma_1"),
    lambda _: "size",
    lambda _: (0,),
    ignored=CLASSIFIERS,
    refused=_REFUSED,
    renamed={r"\.gamma_([12])$": r".ls\1.gamma"},
)
