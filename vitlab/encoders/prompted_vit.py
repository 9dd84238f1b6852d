"""An encoder with prompts: the backbone stays as it is, the prompts are learned.

"Visual Prompt Tuning" (arXiv:2203.12119), "Token Coordinated Prompt Attention is Needed for Visual
Prompting" (arXiv:2505.02406).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitlab.encoders.encoder import Encoder
from vitlab.encoders.entmax.normalizer import SOFTMAX, get_normalizer
from vitlab.encoders.prompts import DeepPrompts, Prompts
from vitlab.encoders.tokens import Grid, Tokens, TokenSequence
from vitlab.encoders.vit import Block, ViT, beside

PRINT = "fingerprint"
SEEN_IN_TENSORS = ("size", "patch_size", "img_size")
WITHOUT_EFFECT = ("drop_path",)  # of a frozen backbone


class PromptedViT(Encoder):
    """A frozen ViT whose blocks read prompts beside their tokens; it returns as many tokens.

    Its state dict holds the prompts, their keys and a fingerprint of the backbone, but not the
    backbone: it is read back beside the same weights, and refused beside others. The backbone is in
    evaluation mode throughout. Without any prompts it is the backbone itself.

    Args:
        backbone: of any origin; `vitlab.objectives.Pretrained` reads it from a file. It is frozen
            and gets the prompts in place.
        prompts: which ones, in every block.

    Attributes:
        config: the arguments of the backbone, and `prompts`.

    Raises:
        ValueError: the backbone is no ViT, has prompts already, or lacks the registers that the
            prompts speak of.
    """

    def __init__(self, backbone: Encoder, prompts: Prompts = Prompts()):  # noqa: B008
        super().__init__()
        if not isinstance(backbone, ViT):
            raise ValueError(
                f"prompts are keys and values of attention, read by [CLS] and patches, and "
                f"{type(backbone).__name__} has no such blocks; give a ViT"
            )
        if any(block.prompts is not None for block in blocks_of(backbone)):
            raise ValueError("the backbone has prompts already; give one without")
        if prompts.registers != "none" and backbone.reg_token is None:
            raise ValueError(
                f"prompts.registers {prompts.registers} would be ignored: the backbone has no "
                "registers; leave it out, or give a backbone with registers"
            )
        self.backbone, self.prompts = backbone.requires_grad_(False), prompts
        self.config = {**backbone.config, "prompts": prompts}
        self.embed_dim, self.patch_size, self.num_heads = (
            backbone.embed_dim,
            backbone.patch_size,
            backbone.num_heads,
        )
        for index, block in enumerate(blocks_of(backbone) if prompts.count else ()):
            with beside(f"blocks.{index}.memory"):
                block.prompts = DeepPrompts(prompts, self.embed_dim, self.patch_size)
        self._fingerprint: Tensor | None = None
        self.train()

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the backbone."""
        return self.backbone.blocks

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches that the backbone is made for."""
        return self.backbone.grid

    @property
    def block_prompts(self) -> list[DeepPrompts]:
        """The prompts of each block; none if there are none."""
        return [block.prompts for block in blocks_of(self.backbone) if block.prompts is not None]

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""
        return self.backbone(images)

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the state entering each block, then the one leaving the last."""
        return self.backbone.walk(images)

    def read(self, state: TokenSequence) -> Tokens:
        """Return a state as the backbone reads it."""
        return self.backbone.read(state)

    def train(self, mode: bool = True) -> "PromptedViT":
        """Set the mode of the prompts; the backbone is never in training mode."""
        super().train(mode)
        self.backbone.eval()
        for memory in self.block_prompts:
            memory.train(mode)
        return self

    def draw(self, random: bool) -> None:
        """Set whether, in training, entries of the pools are drawn instead of chosen by keys."""
        for memory in self.block_prompts:
            for entries in (memory.cls, memory.patches):
                if entries is not None:
                    entries.drawing = random

    @property
    def fingerprint(self) -> UInt8[Tensor, "32"]:
        """SHA-256 of the backbone: its tensors, and its options that are not neutral."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.backbone)
        return self._fingerprint

    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> Any:
        """Return the prompts, the keys and the fingerprint of the backbone."""
        state = super().state_dict(*args, prefix=prefix, **options)
        for name in frozen_names(self.backbone):
            del state[f"{prefix}backbone.{name}"]
        state[prefix + PRINT] = self.fingerprint
        return state

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, *others
    ) -> None:
        """Let torch find the backbone where it is, after a look at the fingerprint."""
        found = state_dict.pop(prefix + PRINT, None)
        if found is None:
            missing_keys.append(prefix + PRINT)
        elif not torch.equal(found.cpu(), self.fingerprint):
            raise ValueError(
                f"the prompts were learned beside the backbone {spelled(found)}, and this one is "
                f"{spelled(self.fingerprint)} (first digits of SHA-256); give the weights and the "
                "options of the encoder that they were trained with"
            )
        own = self.backbone.state_dict()
        for name in frozen_names(self.backbone):
            state_dict[f"{prefix}backbone.{name}"] = own[name]
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *others
        )


def backbone_of(encoder: ViT | PromptedViT) -> ViT:
    """Return the ViT of an encoder, which has all its tensors, those of prompts among them."""
    return encoder.backbone if isinstance(encoder, PromptedViT) else encoder


def blocks_of(backbone: ViT) -> list[Block]:
    """Return the blocks of a ViT."""
    return [block for block in backbone.blocks if isinstance(block, Block)]


def frozen_names(backbone: ViT) -> list[str]:
    """Return the names of the tensors that are the backbone's own."""
    return [name for name in backbone.state_dict() if ".prompts." not in name]


def fingerprint(backbone: ViT) -> UInt8[Tensor, "32"]:
    """Return the SHA-256 of a ViT without its prompts, whatever device it is on.

    Of its options, those that tensors do not show and that are not neutral take part, so that an
    option which later versions add leaves it as it is.
    """
    given = {**backbone.config, "normalizer": get_normalizer(backbone.config["normalizer"])}
    neutral = {name: each.default for name, each in signature(ViT).parameters.items()}
    neutral["normalizer"] = SOFTMAX
    shown = {
        name: value
        for name, value in different(given, neutral).items()
        if name not in (*SEEN_IN_TENSORS, *WITHOUT_EFFECT)
    }
    found = hashlib.sha256(json.dumps(shown, sort_keys=True).encode())
    state = backbone.state_dict()
    for name in frozen_names(backbone):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def different(given: dict[str, Any], neutral: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not neutral; of dataclasses, the fields that are not."""
    return {
        name: different(vars(value), vars(type(value)()))
        if is_dataclass(value) and not isinstance(value, type)
        else value
        for name, value in given.items()
        if value != neutral.get(name)
    }


def spelled(print_: Tensor) -> str:
    """Return the first digits of a fingerprint."""
    return bytes(print_.cpu().tolist()).hex()[:12]
