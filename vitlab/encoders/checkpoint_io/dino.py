"""DINO (arXiv:2104.14294): backbone files, and full checkpoints with student and teacher.

Names are timm's. Positions are resampled by the factor (new + 0.1) / old, bicubic, not antialiased
(facebookresearch/dino, `interpolate_pos_encoding`), whether weights are loaded or run.
"""

from vitlab.encoders.checkpoint_io.family import Family, Weights, has, infer_config, remap_pos_embed
from vitlab.encoders.checkpoint_io.source import Source


def _fits(source: Source) -> bool:
    """Whether nothing is there that DINO lacks: LayerScale, registers, masks, a classifier."""
    foreign = ("ls1.", "gamma_1", "reg", "mask_token", "gaug", "dist_token", "head.")
    pretraining = source.branch in ("student", "teacher", "")
    return source.config is None and pretraining and not has(source, *foreign)


def _convert(source: Source) -> Weights:
    state = remap_pos_embed(source, source.state, 1)
    return Weights(state, infer_config(source, state, "dino"), {})


DINO = Family("dino", _fits, _convert)
