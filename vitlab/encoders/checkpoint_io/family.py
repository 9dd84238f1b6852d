"""Families of weights: how each is recognized and becomes the state dict of a ViT."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vitlab.encoders.checkpoint_io.files import StateDict
from vitlab.encoders.checkpoint_io.source import CheckpointSource
from vitlab.encoders.vit import SHAPES, PosInterpolation
from vitlab.errors import InputError

CLASSIFIERS = {"head": "classifier", "head_dist": "classifier of the distillation token"}


@dataclass(frozen=True)
class Family:
    """Facts of the weights of one origin.

    Attributes:
        name: value of the option `family`.
        fits: whether a source can be of this family.
        pos_interpolation: how it resamples positions, see `ViT`.
        covered: of the number of registers, how many tokens before the patches may have positions.
        ignored: names of tensors that belong to no encoder, and what they are.
        refused: parts of names of tensors that ViT lacks, and what they are.
        renamed: regular expressions of names, and their replacements.
        options: arguments of ViT that tensors do not show.
    """

    name: str
    fits: Callable[[CheckpointSource], bool]
    pos_interpolation: Callable[[CheckpointSource], PosInterpolation]
    covered: Callable[[int], tuple[int, ...]]
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def convert(self, source: CheckpointSource) -> CheckpointSource:
        """Return the tensors in the names of ViT, and the `spec` of the encoder.

        Raises:
            InputError: the weights are of an architecture or size that ViT does not have.
        """
        for key in source.state:
            for part, reason in self.refused.items():
                if part in key:
                    raise InputError(
                        f"{source.path} is of a transformer that ViT cannot express: {key} is of "
                        f"{reason}. Give weights of the plain architecture",
                        field=source.path.name,
                    )
        state, ignored = {}, dict(source.ignored)
        for key, value in source.state.items():
            heads = [name for name in self.ignored if f"{key}.".startswith(f"{name}.")]
            if heads:
                ignored[key] = self.ignored[heads[0]]
                continue
            name = key
            for pattern, replacement in self.renamed.items():
                name = re.sub(pattern, replacement, name)
            state[name] = value
        converted = replace(source, state=state, ignored=ignored)
        converted = replace(converted, state=remap_pos_embed(converted, self.covered))
        config = infer_config(converted, self.pos_interpolation(source)) | dict(self.options)
        spec = {"class_path": "vitlab.encoders.ViT", "init_args": config}
        return replace(converted, spec=spec)


def remap_pos_embed(
    source: CheckpointSource, covered: Callable[[int], tuple[int, ...]]
) -> StateDict:
    """Return the tensors with one position for [CLS] and one for each patch.

    Positions of registers are added to the registers, as every forward pass would do; where [CLS]
    has none it gets zeros. DeiT's distillation token becomes a register.

    Raises:
        InputError: the number of positions fits no square grid, or more than one.
    """
    state = dict(source.state)
    if "dist_token" in state:
        state["reg_token"] = state.pop("dist_token")
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    positions = source.tensor("pos_embed", 3)
    n, counts = positions.shape[1], sorted(set(covered(registers)))
    possible = [k for k in counts if n > k and math.isqrt(n - k) ** 2 == n - k]
    if len(possible) != 1:
        raise InputError(
            f"{source.path} has {n} positions, of which {' or '.join(map(str, counts))} are for "
            "tokens other than patches; the rest must be a square grid, and of one size. Give "
            "weights made for square images",
            field=source.path.name,
        )
    (k,) = possible
    if k == 0:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif k > 1:
        state["reg_token"] = state["reg_token"] + positions[:, 1:k]
        positions = torch.cat([positions[:, :1], positions[:, k:]], dim=1)
    state["pos_embed"] = positions
    return state


def infer_config(source: CheckpointSource, pos_interpolation: PosInterpolation) -> dict[str, Any]:
    """Return the arguments of the ViT whose tensors, in our names, these are.

    Tensors do not show the number of heads; it is that of the size.

    Raises:
        InputError: tensors are missing, or no size has this width and depth.
    """
    kernel: Tensor = source.tensor("patch_embed.proj.weight", 4)
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
    count = source.tensor("pos_embed", 3).shape[1] - 1
    config: dict[str, Any] = {
        "size": sizes[width, depth],
        "patch_size": kernel.shape[2],
        "img_size": kernel.shape[2] * math.isqrt(count),
        "pos_interpolation": pos_interpolation,
    }
    if "reg_token" in source.state:
        config["num_registers"] = source.state["reg_token"].shape[1]
    if "blocks.0.ls1.gamma" in source.state:
        config["layer_scale"] = 1e-5  # any value but 0 builds it; the weights replace it
    return config
