"""What is to be known of a family of weights, and what several of them share."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from vitlab.encoders.checkpoint_io.files import StateDict
from vitlab.encoders.checkpoint_io.source import Source
from vitlab.encoders.vit import SHAPES, PosInterpolation


@dataclass(frozen=True)
class Weights:
    """The tensors of an encoder in the names of `ViT`.

    Attributes:
        state: the tensors; positions have one entry for [CLS], none for registers.
        config: the arguments of the ViT they make.
        left_out: tensors of the source that belong to no encoder, and what they are.
    """

    state: StateDict
    config: dict[str, Any]
    left_out: dict[str, str]

    @property
    def rule(self) -> PosInterpolation:
        """How the family resamples positions."""
        return self.config.get("pos_interpolation", "size")


@dataclass(frozen=True)
class Family:
    """Weights of one origin.

    Attributes:
        name: as users write it.
        fits: whether a source can be of this family.
        convert: renames its tensors and infers the encoder.
    """

    name: str
    fits: Callable[[Source], bool]
    convert: Callable[[Source], Weights]


def has(source: Source, *parts: str) -> bool:
    """Return whether the name of any tensor contains one of the parts."""
    return any(part in key for key in source.state for part in parts)


def without(state: StateDict, reasons: Mapping[str, str]) -> tuple[StateDict, dict[str, str]]:
    """Return the state without the tensors whose names begin so, and why each was left out."""
    left_out = {
        key: reason
        for key in state
        for start, reason in reasons.items()
        if key == start or key.startswith(f"{start}.")
    }
    return {key: value for key, value in state.items() if key not in left_out}, left_out


def refuse(source: Source, parts: Mapping[str, str]) -> None:
    """Refuse a source for tensors that the ViT has no place for.

    Args:
        source: of the tensors.
        parts: what a name contains, and what such a tensor is.

    Raises:
        ValueError: there is such a tensor.
    """
    for key in source.state:
        for part, reason in parts.items():
            if part in key:
                raise ValueError(
                    f"{source.path} is of a transformer that ViT cannot express: {key} is of "
                    f"{reason}. Give weights of the plain architecture"
                )


def remap_pos_embed(source: Source, state: StateDict, *covered: int) -> StateDict:
    """Give positions exactly one entry beside the patches, that of [CLS].

    Positions of registers are added to the registers, which is what they do in every forward pass;
    where [CLS] has none it gets zeros. DeiT's distillation token becomes a register.

    Args:
        source: for the error.
        state: with `pos_embed`, and maybe `reg_token` or `dist_token`.
        covered: how many tokens before the patches the family may give positions to.

    Raises:
        ValueError: the number of positions fits no square grid, or more than one.
    """
    state = dict(state)
    if "dist_token" in state:
        state["reg_token"] = state.pop("dist_token")
    positions = get(source, state, "pos_embed", 3)
    n = positions.shape[1]
    possible = [k for k in sorted(set(covered)) if n > k and isqrt(n - k) ** 2 == n - k]
    if len(possible) != 1:
        counts = " or ".join(str(k) for k in sorted(set(covered)))
        raise ValueError(
            f"{source.path} has {n} positions, of which {counts} are for tokens other than "
            "patches; the rest must be a square grid, and of one size. Give weights made for "
            "square images"
        )
    (k,) = possible
    if k == 0:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif k > 1:
        state["reg_token"] = state["reg_token"] + positions[:, 1:k]
        positions = torch.cat([positions[:, :1], positions[:, k:]], dim=1)
    state["pos_embed"] = positions
    return state


def infer_config(
    source: Source, state: StateDict, pos_interpolation: PosInterpolation, **options: Any
) -> dict[str, Any]:
    """Return the arguments of the ViT whose tensors these are.

    The number of heads cannot be seen in tensors; it is that of the size.

    Args:
        source: for the error.
        state: in our names, with positions as `remap_pos_embed` leaves them.
        pos_interpolation: the rule of the family.
        options: arguments that tensors do not show.

    Raises:
        ValueError: tensors are missing, or no size has this width and depth.
    """
    kernel = get(source, state, "patch_embed.proj.weight", 4)
    width, depth = kernel.shape[0], 1 + max(_blocks(state), default=-1)
    sizes = {(shape.embed_dim, shape.depth): size for size, shape in SHAPES.items()}
    if (width, depth) not in sizes or kernel.shape[2] != kernel.shape[3]:
        known = ", ".join(f"{size} ({w} and {d})" for (w, d), size in sizes.items())
        raise ValueError(
            f"{source.path} is of a transformer {width} wide with {depth} blocks and patches of "
            f"{kernel.shape[2]}x{kernel.shape[3]} pixels; ViT has the sizes {known}, with square "
            "patches. Give weights of one of these"
        )
    count = get(source, state, "pos_embed", 3).shape[1] - 1
    config: dict[str, Any] = {
        "size": sizes[width, depth],
        "patch_size": kernel.shape[2],
        "img_size": kernel.shape[2] * math.isqrt(count),
        "pos_interpolation": pos_interpolation,
        **options,
    }
    if "reg_token" in state:
        config["num_registers"] = state["reg_token"].shape[1]
    if "blocks.0.ls1.gamma" in state:
        config["layer_scale"] = 1e-5  # any start but 0 builds it; the weights replace it
    return config


def get(source: Source, state: StateDict, name: str, axes: int) -> Tensor:
    """Return a tensor that every vision transformer has.

    Raises:
        ValueError: it is missing or has another number of axes.
    """
    if name not in state or state[name].ndim != axes:
        shape = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
        raise ValueError(
            f"{source.path} is not a vision transformer as ViT knows it: {name} {shape}. It holds "
            f"{', '.join(list(source.state)[:4])} and others; give the weights of a DINO, DINOv2, "
            "DeiT, timm or LocAtViT transformer"
        )
    return state[name]


def _blocks(state: StateDict) -> Iterator[int]:
    for key in state:
        parts = key.split(".")
        if parts[0] == "blocks" and len(parts) > 2 and parts[1].isdigit():
            yield int(parts[1])
