"""LocAtViT (arXiv:2603.04892): timm's names and `attn.gaug.log_var`, `attn.gaug.log_alpha`.

Its patch refinement has no weights, so a file does not show it; it is on, as the authors' default.
Positions are resampled as in timm, on which the supervised models are built, and as in DINO for
the authors' pretraining with DINO, whose checkpoints have student and teacher
(sinahmr/LocAtViT, `models/vit.py` and `evaluations/dino/vision_transformer.py`). Its Swin,
RoPE and Jumbo hosts are other architectures.
"""

from vitlab.encoders.checkpoint_io.family import CLASSIFIERS, Family
from vitlab.encoders.checkpoint_io.timm import REFUSED
from vitlab.encoders.locality import Locality

LOCATVIT = Family(
    "locatvit",
    lambda source: source.has(".attn.gaug."),
    lambda source: "dino" if source.branch in ("student", "teacher") else "antialias",
    lambda registers: (0, 1 + registers),
    ignored=CLASSIFIERS,
    refused={**REFUSED, "prr.": "a refinement with weights"},
    options={"locality": Locality("gaussian", refine=True)},
)
