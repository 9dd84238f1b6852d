"""Attention distance, entropy, sparsity, and keys that no query attends to.

Attention distance: "An Image is Worth 16x16 Words" (arXiv:2010.11929). Sparsity and dead keys as
entmax attention needs them, "Vision Transformers Need Better Token Interaction" (arXiv:2605.23868).

Axis letters: b images, h heads, n tokens, k keys (m prompts, then n), s matrices of images' heads.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Values
from vitlab.analysis.results import Measure

AT_ONCE = 2**18  # weights of temporary tensors on a CPU: they stay in its cache
_SPLIT = (
    "Mean over the queries of a role, by block and head. Weights of tokens alone: where there are "
    "prompts as well, divided by their sum."
)
MEASURES = (
    Measure(
        "attention_distance",
        "attention distance",
        "pixels",
        "Mean distance of a patch query to the patches it attends to, weighted by attention, which "
        f"is divided by its sum over patches; a query without any is left out. {_SPLIT}",
    ),
    Measure("attention_entropy", "attention entropy", "nats", f"-sum w ln w of a query. {_SPLIT}"),
    Measure(
        "attention_zeros",
        "exact zeros",
        "share",
        f"Share of tokens that get a weight of exactly 0 from a query. {_SPLIT}",
    ),
    Measure(
        "attention_support",
        "support size",
        "tokens",
        f"Tokens that get a weight above 0 from a query. {_SPLIT}",
    ),
    Measure("attention_max", "largest weight", "share", f"Largest weight of a query. {_SPLIT}"),
    Measure(
        "dead_keys",
        "dead keys",
        "share",
        "Share of an image's tokens that get a weight of exactly 0 from every query of a head.",
    ),
)


def query_statistics(
    weights: Float[Tensor, "s n k"], distances: Float[Tensor, "n n"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the statistics of each query, in few passes over the many weights.

    Args:
        weights: of keys that are m prompts, then as many tokens as there are queries.
        distances: pixels between tokens; 0 from and to those that have no place.

    Returns:
        Distance, entropy, share of zeros and largest weight, (s, n), and share of dead keys, (s,).
    """
    n = len(distances)
    own = weights[..., weights.shape[-1] - n :]
    total = own.sum(-1)
    placed = distances.any(1)  # what has a place is away from something
    there = own[..., int(n - placed.sum()) :].sum(-1)
    tiny = torch.finfo(own.dtype).tiny
    logs = torch.linalg.vecdot(own, own.clamp_min(tiny).log())
    distance = torch.linalg.vecdot(own, distances) / there
    return (
        distance.masked_fill((there == 0) | ~placed, torch.nan),
        (total.log() - logs / total).clamp_min(0).masked_fill(total == 0, torch.nan),
        1 - own.sign().sum(-1) / n,
        own.amax(-1) / total,
        (own.sum(-2) == 0).to(own.dtype).mean(-1),
    )


def measure(weights: Float[Tensor, "b h n k"], context: BatchContext) -> Values:
    """Return the statistics of each image's heads, by the role of the query."""
    n = weights.shape[2]
    distances = torch.nn.functional.pad(context.distances, (context.prefix, 0, context.prefix, 0))
    distances = distances.to(weights.dtype)
    flat = weights.flatten(0, 1)
    step = len(flat) if flat.is_cuda else max(1, AT_ONCE // (n * flat.shape[2]))
    parts = zip(*(query_statistics(part, distances) for part in flat.split(step)), strict=True)
    distance, entropy, zeros, largest, dead = (
        torch.cat(part).unflatten(0, weights.shape[:2]) for part in parts
    )
    values = {
        ("attention_distance", "patches"): distance[..., context.prefix :].nanmean(-1),
        ("dead_keys", ""): dead,
    }
    for name, each in (
        ("attention_entropy", entropy),
        ("attention_zeros", zeros),
        ("attention_support", n * (1 - zeros)),
        ("attention_max", largest),
    ):
        values |= {(name, role): own for role, own in by_role(each, context.prefix).items()}
    return values


def by_role(rows: Float[Tensor, "b h n"], prefix: int) -> dict[str, Float[Tensor, "b h"]]:
    """Return the mean over the queries of each role that there is."""
    means = {"patches": rows[..., prefix:].mean(-1)}
    if prefix:
        means["cls"] = rows[..., 0]
    if prefix > 1:
        means["registers"] = rows[..., 1:prefix].mean(-1)
    return means
