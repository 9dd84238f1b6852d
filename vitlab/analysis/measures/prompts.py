"""Attention to prompts: keys before those of the tokens.

"Visual Prompt Tuning" (arXiv:2203.12119), "Token Coordinated Prompt Attention is Needed for Visual
Prompting" (arXiv:2505.02406). What is measured is ours.

Axis letters: b images, h heads, n tokens, m prompts, k keys (m prompts, then n).
"""

from collections.abc import Iterator, Mapping

from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.attention import by_role
from vitlab.analysis.measures.context import BatchContext, Location, Values
from vitlab.analysis.results import Array, Measure, Row

MEASURES = (
    Measure(
        "prompt_mass",
        "attention to prompts",
        "share",
        "Sum of a query's weights on prompts, as they are used: where a gate takes prompts out "
        "behind the normalizer (TCPA), neither they nor the others are normalized anew. Mean over "
        "the queries of a role, by block and head; the array holds it for each prompt, mean over "
        "heads and images, in the order shared, [CLS] pool, patch pool.",
    ),
    Measure(
        "prompt_used",
        "prompts in use",
        "share",
        "Share of prompts that get a weight above 0 from some query of the role in an image.",
    ),
)


def measure(weights: Float[Tensor, "b h n k"], context: BatchContext) -> Values:
    """Return the use of prompts in each image; nothing where there are none."""
    m = weights.shape[3] - weights.shape[2]
    if not m:
        return {}
    mass = by_role(weights[..., :m].sum(-1), context.prefix)
    values = {("prompt_mass", role): own for role, own in mass.items()}
    for role, own in by_prompt(weights, context.prefix).items():
        values["prompt_used", role] = (own > 0).to(own.dtype).mean(-1)
    return values


def by_prompt(weights: Float[Tensor, "b h n k"], prefix: int) -> dict[str, Float[Tensor, "b h m"]]:
    """Return the mean weight of each prompt over the queries of each role; nothing without any."""
    m = weights.shape[3] - weights.shape[2]
    means = by_role(weights[..., :m].mT.flatten(1, 2), prefix) if m else {}
    return {role: own.unflatten(1, (weights.shape[1], -1)) for role, own in means.items()}


def sums(weights: Float[Tensor, "b h n k"], context: BatchContext) -> Values:
    """Return the weight of each prompt, summed over images."""
    found = by_prompt(weights, context.prefix)
    return {("prompt_mass", role): own.mean(1).sum(0) for role, own in found.items()}


def conclude(
    location: Location, total: Mapping[str, Float[Tensor, " m"]], images: int
) -> Iterator[Row | Array]:
    """Yield the mean weight of each prompt."""
    for role, each in total.items():
        yield location.array("prompt_mass", role, each / images, ["prompt"])
