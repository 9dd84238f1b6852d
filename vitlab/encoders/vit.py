"""Vision transformer with a choice of token interactions.

"An Image is Worth 16x16 Words" (arXiv:2010.11929) in the form of DINO (arXiv:2104.14294), with
timm's parameter names: a DINO or DeiT checkpoint loads strictly into the plain encoder.
"""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from vitlab.encoders.attention import Attention
from vitlab.encoders.cls_specialization import CLSSpecialization, Routed
from vitlab.encoders.encoder import Encoder, plain_values
from vitlab.encoders.entmax.normalizer import Normalizer, NormalizerName, get_normalizer
from vitlab.encoders.hooks import POINTS, HookPoint
from vitlab.encoders.locality import GaussianBias, Locality, refined_cls
from vitlab.encoders.prompts import DeepPrompts
from vitlab.encoders.tokens import Grid, Tokens, TokenSequence, assemble
from vitlab.errors import InputError

PosInterpolation = Literal["size", "dino", "antialias"]  # how positions are resampled


@dataclass(frozen=True)
class Shape:
    """Channels of a token, number of blocks, attention heads."""

    embed_dim: int
    depth: int
    num_heads: int


SHAPES = {
    "nano": Shape(128, 4, 2),
    "Ti": Shape(192, 12, 3),
    "S": Shape(384, 12, 6),
    "B": Shape(768, 12, 12),
    "L": Shape(1024, 24, 16),
}


PATCHES = (4, 8, 14, 16)  # edges in pixels
MAX_GRID = 1024  # patches along an edge, and registers, at most


class ViT(Routed, Encoder):
    """Vision transformer whose token interaction is chosen one option at a time.

    Options at their defaults build nothing and equal the plain ViT. Parameters of an option are
    drawn from streams of their own: arms that differ in one option share all other weights.

    Args:
        size: nano (128 channels, 4 blocks, 2 heads), Ti, S, B or L.
        patch_size: pixels of a patch edge: 4, 8, 14 or 16.
        img_size: pixels of the image edge for which positions are learned; at other sizes they are
            resampled.
        normalizer: maps attention scores to weights: softmax; entmax15 or sparsemax, whose weights
            can be exactly zero; or any of this family, in chosen blocks, as a `Normalizer`.
        cls_specialization: separate weights for [CLS] and patches.
        locality: Gaussian bias towards near patches, and patch refinement.
        num_registers: extra tokens without position between [CLS] and patches (arXiv:2309.16588).
        layer_scale: initial value of LayerScale after attention and MLP; 0 for none.
        drop_path: probability to skip a branch of the last block for an image; 0 at the first
            block, linear between.
        pos_interpolation: how positions are resampled: "size" to the exact grid, as DeiT; "dino",
            as DINO's own code does, for its released weights; "antialias", as timm.
    """

    def __init__(
        self,
        size: Literal["nano", "Ti", "S", "B", "L"] = "S",
        patch_size: Literal[4, 8, 14, 16] = 16,
        img_size: int = 224,
        normalizer: NormalizerName | Normalizer = "softmax",
        cls_specialization: CLSSpecialization = CLSSpecialization(),  # noqa: B008
        locality: Locality = Locality(),  # noqa: B008
        num_registers: int = 0,
        layer_scale: float = 0.0,
        drop_path: float = 0.0,
        pos_interpolation: PosInterpolation = "size",
    ):
        super().__init__()
        _check_arguments(locals())
        shape, weights = SHAPES[size], get_normalizer(normalizer)
        d, depth = shape.embed_dim, shape.depth
        self.embed_dim, self.patch_size, self.num_heads = d, patch_size, shape.num_heads
        self.check_img_size(img_size, "encoder.img_size")
        rows = img_size // patch_size
        self.grid: Grid = (rows, rows)
        self.refine, self.pos_interpolation = locality.refine, pos_interpolation
        self.patch_embed = PatchEmbed(patch_size, d)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * rows, d))
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            Block(d, shape.num_heads, weights.for_block(block, depth), layer_scale, rate)
            for block, rate in enumerate(rates)
        )
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.apply(_initialize)
        for parameter in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.add_options(cls_specialization, locality, num_registers)

    def add_options(
        self, cls_specialization: CLSSpecialization, locality: Locality, num_registers: int
    ) -> None:
        """Add what the options need to the plain encoder."""
        self.reg_token: nn.Parameter | None = None
        if num_registers:
            self.reg_token = nn.Parameter(torch.zeros(1, num_registers, self.embed_dim))
            with torch.random.fork_rng(devices=[]):
                nn.init.normal_(self.reg_token, std=1e-6)
        if locality.kind != "none":
            channels = self.embed_dim // self.num_heads
            with torch.random.fork_rng(devices=[]):
                for block in self.blocks:
                    assert isinstance(block, Block)
                    block.attn.gaug = GaussianBias(channels, self.grid, locality)
        cls_specialization.check(len(self.blocks))
        global_tokens = 1 + num_registers * (cls_specialization.registers == "cls")
        for index, block in enumerate(self.blocks.children()):
            for name in cls_specialization.splits(index, len(self.blocks)):
                path, _, layer = name.rpartition(".")
                owner = block.get_submodule(path)
                assert isinstance(owner, Routed)
                if isinstance(getattr(owner, layer), nn.Identity):
                    continue  # an encoder without LayerScale has nothing to split there
                copied = owner.split(layer, global_tokens)
                if cls_specialization.init == "random":
                    with named_random_stream(f"blocks.{index}.{name}_cls"):
                        copied.apply(_initialize)
        if cls_specialization.final_norm:
            self.split("norm", global_tokens)

    def spec(self) -> dict[str, Any]:
        """Return `class_path` and `init_args`; a ViT that read its weights needs no file again."""
        return {"class_path": "vitlab.encoders.ViT", "init_args": plain_values(self.config)}

    def count_blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the sequence entering each block, then the one leaving the last."""
        state = self.embed(images)
        for block in self.blocks:
            yield state
            state = TokenSequence(block(state.x, state.grid), state.grid)
        yield state

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the features of the images, after the final norm."""
        for state in self.walk(images):  # noqa: B007
            pass
        return self.read(state)

    def read(self, state: TokenSequence) -> Tokens:
        """Return a sequence after the final norm and, where chosen, with a refined [CLS]."""
        x = self.route("norm", state.x)
        tokens = TokenSequence(x, state.grid).tokens()
        return replace(tokens, cls=refined_cls(x, self.num_heads)) if self.refine else tokens

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> TokenSequence:
        """Cut the images into patches and add positions, [CLS] and registers."""
        for size in images.shape[2:]:
            self.check_img_size(size, "image size")
        patches = self.patch_embed(images)
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        cls_position, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        patches = patches + resample(positions, self.grid, grid, self.pos_interpolation)
        registers = self.reg_token if self.reg_token is not None else self.cls_token[:, :0]
        return TokenSequence(assemble(self.cls_token + cls_position, registers, patches), grid)


def resample(
    positions: Float[Tensor, "1 q d"], old: Grid, new: Grid, rule: PosInterpolation
) -> Float[Tensor, "1 p d"]:
    """Return the positions of patches, row by row, for the new grid by bicubic interpolation."""
    if old == new:
        return positions
    table = positions.transpose(1, 2).unflatten(2, old)
    if rule == "dino":
        # DINO passes this factor, not the size, and torch samples by the factor it is given
        factor = [(after + 0.1) / before for after, before in zip(new, old, strict=True)]
        table = F.interpolate(table, scale_factor=factor, mode="bicubic")
    else:
        table = F.interpolate(table, size=new, mode="bicubic", antialias=rule == "antialias")
    return table.flatten(2).transpose(1, 2)


def _check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments, which may be of a stranger's file, before anything is allocated.

    Raises:
        InputError: one of another type, or out of its range.
    """
    for name, known in (("size", tuple(SHAPES)), ("patch_size", PATCHES)):
        if type(given[name]) is not type(known[0]) or given[name] not in known:
            message = f"encoder.{name} {given[name]!r:.40} is not one of {known}; use one of these"
            raise InputError(message, field=f"encoder.{name}")
    highest = {"img_size": given["patch_size"] * MAX_GRID, "num_registers": MAX_GRID}
    for name, high in {**highest, "layer_scale": 100.0, "drop_path": 1.0}.items():
        value = given[name]
        if type(value) not in {int, type(high)} or not 0 <= value <= high:
            message = f"encoder.{name} {value!r:.40} is not a number from 0 to {high}; give one"
            raise InputError(message, field=f"encoder.{name}")


class PatchEmbed(nn.Module):
    """One linear map of the pixels of each patch; keeps torch's own initialization, as DINO."""

    def __init__(self, patch_size: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b p d"]:
        """Return a token for each patch, row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(Routed):
    """x + scale attention(norm(x)), then the same with an MLP."""

    def __init__(
        self, d: int, num_heads: int, normalizer: Normalizer, layer_scale: float, drop: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(d, eps=1e-6)
        self.attn = Attention(d, num_heads, normalizer)
        self.ls1 = LayerScale(d, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(d, eps=1e-6)
        self.mlp = MLP(d)
        self.ls2 = LayerScale(d, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop)
        self.prompts: DeepPrompts | None = None  # of `PromptedViT`
        self.points = nn.ModuleDict({name: HookPoint() for name in POINTS})

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b n d"]:
        """Let tokens interact, then transform each."""
        at = self.points
        x = at["input"](x)
        extra = None if self.prompts is None else self.prompts(x, grid).through(self.norm1)
        mixed = at["attention"](self.attn(at["norm1"](self.route("norm1", x)), grid, extra))
        x = at["residual1"](x + self.drop_path(at["scale1"](self.route("ls1", mixed))))
        transformed = at["mlp"](self.route("mlp", at["norm2"](self.route("norm2", x))))
        return at["output"](x + self.drop_path(self.route("ls2", transformed)))


class MLP(nn.Module):
    """Two layers, four times as wide inside, with an exact GELU between."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.hidden = HookPoint()
        self.fc2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Transform each token."""
        return self.fc2(self.hidden(F.gelu(self.fc1(x))))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


@contextmanager
def named_random_stream(name: str) -> Iterator[None]:
    """Draw random numbers from a stream of that name and leave torch's global stream as it is.

    The numbers depend on the state of the global stream and on the name, not on what other names
    draw.
    """
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, (), device="cpu"))
        torch.default_generator.manual_seed(seed ^ zlib.crc32(name.encode()))
        yield
