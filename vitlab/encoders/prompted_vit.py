"""A frozen ViT with learned prompts.

"Visual Prompt Tuning" (arXiv:2203.12119), "Token Coordinated Prompt Attention is Needed for Visual
Prompting" (arXiv:2505.02406).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitlab.encoders.encoder import Encoder, plain_values
from vitlab.encoders.entmax.normalizer import SOFTMAX, get_normalizer
from vitlab.encoders.prompts import DeepPrompts, PromptPool, Prompts
from vitlab.encoders.tokens import Tokens, TokenSequence
from vitlab.encoders.vit import ViT, named_random_stream
from vitlab.errors import InputError

FINGERPRINT = "fingerprint"  # its name in state dicts
# options that tensors show, and one without effect on a frozen backbone
NOT_IN_FINGERPRINT = ("size", "patch_size", "img_size", "drop_path")


class PromptedViT(Encoder):
    """A frozen ViT whose attention reads prompts as well; it returns as many tokens.

    Its state dict holds the prompts, their keys and a fingerprint of the backbone, but not the
    backbone: it can be loaded with the same backbone only. The backbone is in evaluation mode
    throughout. Without any prompts it is the backbone itself.

    Args:
        backbone: a ViT, frozen and given the prompts in place; `vitlab.objectives.Pretrained`
            reads it from a file.
        prompts: those of every block.

    Attributes:
        config: the arguments of the backbone, and `prompts`.

    Raises:
        InputError: the backbone is no ViT, has prompts already, or lacks registers that
            `prompts.registers` needs.
    """

    def __init__(self, backbone: Encoder, prompts: Prompts = Prompts()):  # noqa: B008
        super().__init__()
        if not isinstance(backbone, ViT) or any(block.prompts for block in backbone.blocks):
            raise InputError(
                f"prompts are keys and values of attention, read by [CLS] and patches, and "
                f"{type(backbone).__name__} has no such blocks or has prompts already; give a ViT "
                "without",
                field="backbone",
            )
        if prompts.registers != "none" and backbone.reg_token is None:
            raise InputError(
                f"prompts.registers {prompts.registers} has no effect: the backbone has no "
                "registers; leave it out, or give a backbone with registers",
                field="prompts.registers",
            )
        self.backbone, self.prompts = backbone.requires_grad_(False), prompts
        self.config = {**backbone.config, "prompts": prompts}
        self.embed_dim, self.patch_size = backbone.embed_dim, backbone.patch_size
        self.num_heads, self.grid = backbone.num_heads, backbone.grid
        for index, block in enumerate(backbone.blocks if prompts.count else ()):
            with named_random_stream(f"blocks.{index}.memory"):
                block.prompts = DeepPrompts(prompts, self.embed_dim, self.patch_size)
        self.register_load_state_dict_pre_hook(_add_backbone)
        self.train()

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the backbone."""
        return self.backbone.blocks

    @property
    def block_prompts(self) -> list[DeepPrompts]:
        """The prompts of each block; empty if there are none."""
        return [module for module in self.modules() if isinstance(module, DeepPrompts)]

    def spec(self) -> dict[str, Any]:
        """Return `class_path` and `init_args`, with those of the backbone."""
        arguments = {"backbone": self.backbone.spec(), **plain_values({"prompts": self.prompts})}
        return {"class_path": "vitlab.encoders.PromptedViT", "init_args": arguments}

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""
        return self.backbone(images)

    def count_blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the sequence entering each block, then the one leaving the last."""
        return self.backbone.walk(images)

    def read(self, state: TokenSequence) -> Tokens:
        """Return a sequence as the backbone reads it."""
        return self.backbone.read(state)

    def train(self, mode: bool = True) -> "PromptedViT":
        """Set the mode of the prompts; the backbone is never in training mode."""
        super().train(mode)
        self.backbone.eval()
        for prompts in self.block_prompts:
            prompts.train(mode)
        return self

    def draw(self, random: bool) -> None:
        """Set whether, in training, entries of pools are drawn at random instead of by keys."""
        for module in self.modules():
            if isinstance(module, PromptPool):
                module.drawing = random

    @cached_property
    def fingerprint(self) -> UInt8[Tensor, "32"]:
        """SHA-256 of the backbone: its tensors, and its options that are not neutral."""
        return fingerprint(self.backbone)

    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> Any:
        """Return the prompts, the keys and the fingerprint of the backbone."""
        state = super().state_dict(*args, prefix=prefix, **options)
        for name in frozen_tensors(self.backbone):
            del state[f"{prefix}backbone.{name}"]
        state[prefix + FINGERPRINT] = self.fingerprint
        return state


def _add_backbone(
    encoder: PromptedViT, state: dict[str, Tensor], prefix: str, *others: Any
) -> None:
    """Check the fingerprint of a state dict and add the backbone, before torch loads it."""
    *_, missing_keys, _, _ = others  # local_metadata, strict, missing_, unexpected_, error_msgs
    found = state.pop(prefix + FINGERPRINT, None)
    if found is None:
        missing_keys.append(prefix + FINGERPRINT)
    elif not torch.equal(found.cpu(), encoder.fingerprint):
        digits = [bytes(each.cpu().tolist()).hex()[:12] for each in (found, encoder.fingerprint)]
        raise InputError(
            f"the prompts were learned with the backbone {digits[0]}, and this one is {digits[1]} "
            "(first digits of SHA-256); give the weights and the options of the encoder that they "
            "were trained with",
            field="backbone",
        )
    for name, tensor in frozen_tensors(encoder.backbone).items():
        state[f"{prefix}backbone.{name}"] = tensor


def backbone_of(encoder: Encoder) -> Encoder:
    """Return the encoder that has all tensors: of a PromptedViT, the ViT with the prompts."""
    return encoder.backbone if isinstance(encoder, PromptedViT) else encoder


def frozen_tensors(backbone: ViT) -> dict[str, Any]:
    """Return the tensors of the backbone without those of prompts."""
    state = backbone.state_dict()
    return {name: tensor for name, tensor in state.items() if ".prompts." not in name}


def fingerprint(backbone: ViT) -> UInt8[Tensor, "32"]:
    """Return the SHA-256 of a ViT without its prompts, the same on every device.

    Of its options, those that tensors do not show and that are not neutral take part, so that an
    option added in a later version does not change it.
    """
    config = {**backbone.config, "normalizer": get_normalizer(backbone.config["normalizer"])}
    neutral = {name: each.default for name, each in signature(ViT).parameters.items()}
    neutral["normalizer"] = SOFTMAX
    options = _different(config, neutral)
    options = {name: options[name] for name in options if name not in NOT_IN_FINGERPRINT}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, tensor in frozen_tensors(backbone).items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _different(config: dict[str, Any], neutral: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not neutral; of dataclasses, the fields that are not."""
    return {
        name: _different(vars(value), vars(type(value)()))
        if is_dataclass(value) and not isinstance(value, type)
        else value
        for name, value in config.items()
        if value != neutral.get(name)
    }
