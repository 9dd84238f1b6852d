"""Families of weights: facts of each origin, and its tensors in the names of a ViT."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from vitlab.encoders.checkpoint_io.files import CheckpointSource, StateDict, stated_rule
from vitlab.encoders.locality import Locality
from vitlab.encoders.vit import SHAPES, PosInterpolation
from vitlab.errors import InputError
from vitlab.option_types import FamilyName


@dataclass(frozen=True)
class Family:
    """Facts of the weights of one origin.

    Attributes:
        pos_interpolation: how it resamples positions, see `ViT`.
        positions: which tokens before the patches may have positions: none, [CLS], or all.
        unlike: names of models in files of other programs; any other name tells nothing, so that
            the same tensors by themselves, under "model" and under "state_dict" are read alike.
        has: parts of names of tensors, of which one must be there.
        lacks: parts of names of tensors that it does not have.
        ignored: names of tensors that belong to no encoder, and what they are.
        refused: parts of names of tensors that ViT lacks, and what they are.
        renamed: regular expressions of names, and their replacements.
        options: arguments of ViT that tensors do not show.
    """

    pos_interpolation: Callable[[CheckpointSource], PosInterpolation]
    positions: tuple[Literal["none", "cls", "all"], ...]
    unlike: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, source: CheckpointSource) -> bool:
        """Return whether a source can be of this family."""
        named = source.branch not in self.unlike
        return named and (not self.has or source.has(*self.has)) and not source.has(*self.lacks)

    def convert(self, source: CheckpointSource) -> CheckpointSource:
        """Return the tensors in the names of ViT, and the `spec` of the encoder.

        Raises:
            InputError: the weights are of an architecture or size that ViT does not have.
        """
        state, ignored = {}, dict(source.ignored)
        for key, value in source.state.items():
            for part, reason in self.refused.items():
                if part in key:
                    raise InputError(
                        f"{source.path} is of a transformer that ViT cannot express: {key} is of "
                        f"{reason}. Give weights of the plain architecture",
                        field=source.path.name,
                    )
            name = key
            for pattern, replacement in self.renamed.items():
                name = re.sub(pattern, replacement, name)
            heads = [head for head in self.ignored if f"{key}.".startswith(f"{head}.")]
            if heads:
                ignored[key] = self.ignored[heads[0]]
            else:
                state[name] = value
        converted = replace(source, state=state, ignored=ignored)
        converted = replace(converted, state=self._remap_pos_embed(converted))
        config = infer_config(converted) | dict(self.options)
        config["pos_interpolation"] = stated_rule(source.path) or self.pos_interpolation(source)
        return replace(converted, spec={"class_path": "vitlab.encoders.ViT", "init_args": config})

    def _remap_pos_embed(self, source: CheckpointSource) -> StateDict:
        """Return the tensors with one position for [CLS] and one for each patch.

        Positions of registers are added to the registers, as every forward pass would do; where
        [CLS] has none it gets zeros. DeiT's distillation token becomes a register.
        """
        state = dict(source.state)
        if "dist_token" in state:
            state["reg_token"] = state.pop("dist_token")
        registers = state["reg_token"].shape[1] if "reg_token" in state else 0
        positions = source.tensor("pos_embed", 3)
        n, counts = positions.shape[1], {"none": 0, "cls": 1, "all": 1 + registers}
        fitting = [
            counts[tokens]
            for tokens in self.positions
            if n > counts[tokens] and math.isqrt(n - counts[tokens]) ** 2 == n - counts[tokens]
        ]
        if len(fitting) != 1:
            raise InputError(
                f"{source.path} has {n} positions, of which those of patches must be a square "
                "grid, and of one size. Give weights made for square images",
                field=source.path.name,
            )
        (k,) = fitting
        if k == 0:
            positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        elif k > 1:
            state["reg_token"] = state["reg_token"] + positions[:, 1:k]
            positions = torch.cat([positions[:, :1], positions[:, k:]], dim=1)
        state["pos_embed"] = positions
        return state


def infer_config(source: CheckpointSource) -> dict[str, Any]:
    """Return the arguments of the ViT whose tensors, in our names, these are.

    Tensors do not show the number of heads; it is that of the size.

    Raises:
        InputError: tensors are missing, or no size has this width and depth.
    """
    kernel = source.tensor("patch_embed.proj.weight", 4)
    blocks = [int(match[1]) for key in source.state if (match := re.match(r"blocks\.(\d+)\.", key))]
    width, depth = kernel.shape[0], 1 + max(blocks, default=-1)
    sizes = {(shape.embed_dim, shape.depth): size for size, shape in SHAPES.items()}
    if (width, depth) not in sizes or kernel.shape[2] != kernel.shape[3]:
        known = ", ".join(f"{size} ({w} and {d})" for (w, d), size in sizes.items())
        raise InputError(
            f"{source.path} is of a transformer {width} wide with {depth} blocks and patches of "
            f"{kernel.shape[2]}x{kernel.shape[3]} pixels; ViT has the sizes {known}, with square "
            "patches. Give weights of one of these",
            field=source.path.name,
        )
    config: dict[str, Any] = {
        "size": sizes[width, depth],
        "patch_size": kernel.shape[2],
        "img_size": kernel.shape[2] * math.isqrt(source.tensor("pos_embed", 3).shape[1] - 1),
        "pos_interpolation": "size",
    }
    if "reg_token" in source.state:
        config["num_registers"] = source.state["reg_token"].shape[1]
    if "blocks.0.ls1.gamma" in source.state:
        config["layer_scale"] = 1e-5  # any value but 0 builds it; the weights replace it
    return config


_NOT_PLAIN = ("ls1.", "gamma_1", "reg")
_CLASSIFIERS = {"head": "classifier", "head_dist": "classifier of the distillation token"}
_MAE_DECODER = tuple(f"decoder_{part}" for part in ("embed", "blocks", "norm", "pred", "pos_embed"))
_NOT_DEIT = {
    "attn1.": "two attentions side by side",
    "patch_embed.proj.0.": "a convolutional stem",
    "blocks_token_only": "class attention (CaiT)",
}
_NOT_TIMM = {
    "q_norm.": "normalized queries and keys",
    "norm_pre.": "a norm before the blocks",
    "patch_embed.norm.": "a norm of the patches",
    "fc_norm.": "a norm after pooling in place of the final norm",
    "attn_pool.": "pooling by attention",
    "mlp.fc1_g.": "a gated MLP",
    "mlp.norm.": "a norm inside the MLP",
    "attn.norm.": "a norm inside the attention",
}

FAMILIES = {
    # DINO (arXiv:2104.14294): backbone files, and full checkpoints with student and teacher. Names
    # are timm's. Positions are resampled by the factor (new + 0.1) / old, bicubic, not antialiased
    # (facebookresearch/dino, `interpolate_pos_encoding`), whether weights are loaded or run.
    "dino": Family(
        lambda _: "dino",
        ("cls",),
        lacks=(*_NOT_PLAIN, "mask_token", "gaug", "dist_token", "head."),
    ),
    # DINOv2 (arXiv:2304.07193), without and with registers (arXiv:2309.16588). Names are timm's but
    # `register_tokens`, `mask_token`, and blocks in chunks (`blocks.0.7.norm1`) in checkpoints of
    # pretraining. Registers have no positions; [CLS] has one. Positions are resampled as the
    # released models are built (facebookresearch/dinov2, `hub/backbones.py`: interpolate_offset 0.1
    # without antialias, with registers 0.0 with antialias). The giant size has no counterpart here.
    "dinov2": Family(
        lambda source: "antialias" if "register_tokens" in source.state else "dino",
        ("cls",),
        has=("mask_token", "register_tokens"),
        lacks=("decoder_",),
        ignored={"mask_token": "token of masked patches, used in pretraining alone"},
        refused={"mlp.w12.": "a gated MLP (SwiGLU, the giant size)"},
        renamed={r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.", r"^register_tokens$": "reg_token"},
    ),
    # MAE (arXiv:2111.06377): timm's names, fixed sine-cosine positions; checkpoints of pretraining
    # have the decoder as well. Positions are resampled to the exact size, bicubic, not antialiased
    # (facebookresearch/mae, `util/pos_embed.py`).
    "mae": Family(
        lambda _: "size",
        ("cls",),
        unlike=("student", "teacher"),
        lacks=(*_NOT_PLAIN, "gaug", "dist_token", "head.", "register_tokens"),
        ignored={"mask_token": "token of masked patches, used in pretraining alone"}
        | dict.fromkeys(_MAE_DECODER, "decoder of pretraining"),
        refused={"fc_norm.": "a norm after pooling in place of the final norm"},
    ),
    # DeiT (arXiv:2012.12877), plain and distilled, and DeiT-III (arXiv:2204.07118). Files hold the
    # tensors under "model", in timm's names; DeiT-III writes LayerScale as `gamma_1` and `gamma_2`,
    # and gives [CLS] no position. The distillation token follows [CLS] and has a position: a
    # register by another name. Positions are resampled to the exact size, bicubic, not antialiased
    # (facebookresearch/deit, `main.py`, fine-tuning at another resolution).
    "deit": Family(
        lambda _: "size",
        ("all",),
        has=("head.", "head_dist."),
        lacks=("ls1.", "gamma_1", "reg_token", "mask_token", "gaug"),
        ignored=_CLASSIFIERS,
        refused=_NOT_DEIT,
    ),
    "deit3": Family(
        lambda _: "size",
        ("none",),
        has=("gamma_1",),
        ignored=_CLASSIFIERS,
        refused=_NOT_DEIT,
        renamed={r"\.gamma_([12])$": r".ls\1.gamma"},
    ),
    # Vision transformers of timm (huggingface/pytorch-image-models), whose names are ours.
    # Positions cover the patches and all tokens before them, or the patches alone
    # (`no_embed_class`). They are resampled to the exact size, bicubic, antialiased
    # (`resample_abs_pos_embed`), whether weights are loaded or run with `dynamic_img_size`.
    "timm": Family(
        lambda _: "antialias",
        ("none", "all"),
        unlike=("student", "teacher"),
        lacks=("gamma_1", "register_tokens", "mask_token", "gaug"),
        ignored=_CLASSIFIERS,
        refused=_NOT_TIMM,
    ),
    # LocAtViT (arXiv:2603.04892): timm's names and `attn.gaug.log_var`, `attn.gaug.log_alpha`. Its
    # patch refinement has no weights, so a file does not show it; it is on, as the authors'
    # default. Positions are resampled as in timm, on which the supervised models are built, and as
    # in DINO for the authors' pretraining with DINO, whose checkpoints have student and teacher
    # (sinahmr/LocAtViT, `models/vit.py` and `evaluations/dino/vision_transformer.py`). Its Swin,
    # RoPE and Jumbo hosts are other architectures.
    "locatvit": Family(
        lambda source: "dino" if source.branch in ("student", "teacher") else "antialias",
        ("none", "all"),
        has=(".attn.gaug.",),
        ignored=_CLASSIFIERS,
        refused={**_NOT_TIMM, "prr.": "a refinement with weights"},
        options={"locality": Locality("gaussian", refine=True)},
    ),
}
OWN = "vitlab"  # checkpoints of `vitlab fit` and exported folders, which name every option


def recognize(source: CheckpointSource, family: FamilyName) -> str:
    """Return the family of a source.

    Raises:
        InputError: it is not `family`, or `family` is "auto" and several fit or none.
    """
    if source.spec is not None:
        fitting = [OWN]
    else:
        source.tensor("patch_embed.proj.weight", 4), source.tensor("pos_embed", 3)
        fitting = [name for name, each in FAMILIES.items() if each.fits(source)]
        # with a decoder it is MAE's, else DINOv2's
        if "mae" in fitting and source.has("mask_token"):
            fitting = ["mae"] if source.has("decoder_") else [n for n in fitting if n != "mae"]
    if family == "auto" and len(fitting) == 1:
        return fitting[0]
    if family in fitting or (family not in ("auto", OWN) and not fitting):
        return family
    wrong = "" if family == "auto" else f", not of {family}"
    pixels = ", and of timm's weights --pixels, where images are read" if "timm" in fitting else ""
    raise InputError(
        f"the tensors of {source.path} are those of "
        f"{' or '.join(fitting) or 'no family known here'}{wrong}; give --family "
        f"{' or '.join(fitting or FAMILIES)}{pixels}. Families differ in how positions are "
        "resampled; vitlab is for checkpoints of `vitlab fit` and exported folders",
        field="--family",
    )
