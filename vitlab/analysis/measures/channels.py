"""Magnitudes of channels in [CLS] and in patches.

"Revisiting [CLS] and Patch Token Interaction" (arXiv:2602.08626) explains by such channels that
[CLS] and patches become unlike across the norm.

Axis letters: b images, n tokens, d width.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import BatchContext, Location, Values
from vitlab.analysis.results import Array, Measure, Row
from vitlab.encoders.tokens import TokenSequence

TOP = 10
MEASURES = (
    Measure(
        "channel_magnitude",
        "magnitude of channels",
        "",
        "Mean |activation| of a channel over images, for [CLS] and for patches (over all of an "
        "image's), an array each. No interval.",
    ),
    Measure(
        "channel_log_ratio",
        "log ratio of [CLS] and patch magnitudes",
        "nats",
        "Mean over channels of |ln(magnitude of [CLS] / magnitude of patches)|, of the magnitudes "
        "over the set; the array holds it with its sign for each channel. 0 if the roles use all "
        "channels alike. Channels that are 0 in either role are left out (0 in the array).",
    ),
    Measure(
        "channel_overlap",
        f"overlap of the {TOP} largest channels",
        "share",
        f"Share of the {TOP} channels with the largest magnitude in [CLS] that are among the {TOP} "
        "largest of patches, by the magnitudes over the set.",
    ),
)


def sums(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the summed magnitudes of the channels."""
    if not context.prefix:
        return {}
    tokens = TokenSequence(x, context.grid).tokens()
    patches = torch.linalg.vector_norm(tokens.patches, ord=1, dim=1) / tokens.patches.shape[1]
    return {
        ("channel_magnitude", "cls"): tokens.cls.abs().sum(0),
        ("channel_magnitude", "patches"): patches.sum(0),
    }


def conclude(
    location: Location, total: Mapping[str, Float[Tensor, " d"]], images: int
) -> Iterator[Row | Array]:
    """Yield the magnitudes of both roles and how they differ."""
    means = {role: total[role] / images for role in ("cls", "patches")}
    for role, mean in means.items():
        yield location.array("channel_magnitude", role, mean, ["channel"])
    # a stable order, so that equal channels are told by their number
    top = [mean.sort(descending=True, stable=True).indices[:TOP] for mean in means.values()]
    common = torch.isin(*top).double().mean()
    yield location.row("channel_overlap", "", float(common), images)
    both = (means["cls"] > 0) & (means["patches"] > 0)
    if both.any():
        ratio = (means["cls"] / means["patches"]).where(both, torch.ones(()).double()).log()
        yield location.array("channel_log_ratio", "", ratio, ["channel"])
        yield location.row("channel_log_ratio", "", float(ratio[both].abs().mean()), images)
