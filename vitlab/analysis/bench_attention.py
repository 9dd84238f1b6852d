"""Entmax attention against torch's softmax attention and against the entmax package."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlab.encoders.entmax_attention import entmax_attention

Case = tuple[str, Callable[[], object], str, Callable[[], object]]
SHAPES = ((8, 6, 197, 64), (2, 6, 1025, 64))  # ViT-S/16 at 224 and at 512 px


def cases() -> list[Case]:
    """Forward and backward of whole attentions in fp32, on the CPU."""
    return [case for shape in SHAPES for case in of(shape)]


def of(shape: tuple[int, ...]) -> list[Case]:
    """Return the cases of images, heads, tokens and channels of a head."""
    q, k, v, grad = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def train(attend: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(*inputs), inputs, grad)

    name, ours = f"entmax attention of {shape}, forward + backward", train(entmax_attention)
    package = train(lambda q, k, v: entmax_attention(q, k, v, path="package"))
    return [
        (name, ours, "softmax, fused", train(F.scaled_dot_product_attention)),
        (name, ours, "entmax 1.3", package),
    ]
