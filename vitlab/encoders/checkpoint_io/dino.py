"""DINO (arXiv:2104.14294): backbone files, and full checkpoints with student and teacher.

Names are timm's. Positions are resampled by the factor (new + 0.1) / old, bicubic, not antialiased
(facebookresearch/dino, `interpolate_pos_encoding`), whether weights are loaded or run.
"""

from vitlab.encoders.checkpoint_io.family import Family
from vitlab.encoders.checkpoint_io.source import CheckpointSource


def _fits(source: CheckpointSource) -> bool:
    # what DINO lacks: LayerScale, registers, masks, a classifier
    foreign = ("ls1.", "gamma_1", "reg", "mask_token", "gaug", "dist_token", "head.")
    return source.branch in ("student", "teacher", "") and not source.has(*foreign)


DINO = Family("dino", _fits, lambda _: "dino", lambda _: (1,))
