"""Measures of attention weights: distance, entropy, sparsity, dead keys, prompts, Gaussian bias.

Axis letters: b images, h heads, n tokens, m prompts, k keys (m prompts, then n), p patches,
s matrices of images' heads, e channels of a head.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Values
from vitlab.analysis.results import Array, rounded
from vitlab.encoders.locality import GaussianBias
from vitlab.precision import at_least_fp32

AT_ONCE = 2**18  # weights of temporary tensors on a CPU: they stay in its cache


def by_role(rows: Float[Tensor, "b h n"], prefix: int) -> dict[str, Float[Tensor, "b h"]]:
    """Return the mean over the queries of each role that there is."""
    means = {"patches": rows[..., prefix:].mean(-1)}
    if prefix:
        means["cls"] = rows[..., 0]
    if prefix > 1:
        means["registers"] = rows[..., 1:prefix].mean(-1)
    return means


def attention(weights: Float[Tensor, "b h n k"], context: BatchContext) -> Values:
    """Return the statistics of each image's heads, by the role of the query.

    Attention distance: "An Image is Worth 16x16 Words" (arXiv:2010.11929). Sparsity and dead keys
    as entmax attention needs them: arXiv:2605.23868.
    """
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
    if context.prefix and context.foreground.any():
        values["attention_foreground", "cls"] = foreground_mass(weights[:, :, 0], context)
    return values


def foreground_mass(cls: Float[Tensor, "b h k"], context: BatchContext) -> Float[Tensor, "b h"]:
    """Return the share of [CLS]'s weight on labeled patches that is on an object."""
    fore, back = (each[:, None].to(cls.dtype) for each in (context.foreground, context.background))
    own = cls[..., -fore.shape[-1] :]
    on, beside = (own * fore).sum(-1), (own * back).sum(-1)
    both = context.foreground.any(1) & context.background.any(1)
    return (on / (on + beside)).masked_fill(~both[:, None], torch.nan)


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


def prompts(weights: Float[Tensor, "b h n k"], context: BatchContext) -> tuple[Values, Values]:
    """Return the use of prompts, whose keys come before those of the tokens; nothing without any.

    "Visual Prompt Tuning" (arXiv:2203.12119), "Token Coordinated Prompt Attention is Needed for
    Visual Prompting" (arXiv:2505.02406). What is measured is ours.

    Returns:
        Numbers of each image; the weight of each prompt, summed over images.
    """
    m = weights.shape[3] - weights.shape[2]
    if not m:
        return {}, {}
    own, heads = weights[..., :m], weights.shape[1]
    mass = by_role(own.sum(-1), context.prefix)
    values = {("prompt_mass", role): each for role, each in mass.items()}
    sums = {}
    for role, means in by_role(own.mT.flatten(1, 2), context.prefix).items():
        each = means.unflatten(1, (heads, m))  # mean weight over the queries of the role
        values["prompt_used", role] = (each > 0).to(each.dtype).mean(-1)
        sums["prompt_mass", role] = each.mean(1).sum(0)
    return values, sums


def conclude_prompts(total: Mapping[str, Float[Tensor, " m"]], images: int) -> Iterator[Array]:
    """Yield the mean weight of each prompt."""
    for role, each in total.items():
        values = rounded(each / images)
        yield Array(measure="prompt_mass", role=role, values=values, axes=["prompt"])


def gaussian_bias(
    bias: GaussianBias, q: Float[Tensor, "b h n e"], context: BatchContext
) -> tuple[Values, Values]:
    """Return strength and width of the Gaussian that favors near patches (arXiv:2603.04892).

    Returns:
        Means over the queries of each image's heads; maps over the queries, summed over images.
    """
    with torch.autocast(q.device.type, enabled=False):
        x = at_least_fp32(q[:, :, context.prefix :])
        alpha, variance = bias.predict(x, context.grid)
    found = {"bias_alpha": alpha[..., 0]}
    if bias.log_var is not None:  # of kind "uniform" they are infinite
        found["bias_variance_rows"] = variance[..., 0]
        found["bias_variance_columns"] = variance[..., 1]
    values = {(name, "patches"): each.mean(-1) for name, each in found.items()}
    maps = {
        (name, "patches"): each.sum(0).unflatten(-1, context.grid) for name, each in found.items()
    }
    return values, maps


def conclude_bias(
    measure: str, total: Mapping[str, Float[Tensor, "h rows columns"]], images: int
) -> Iterator[Array]:
    """Yield a map for each head."""
    for head, each in enumerate(rounded(total["patches"] / images)):
        axes = ["row", "column"]
        yield Array(measure=measure, head=head, role="patches", values=each, axes=axes)
