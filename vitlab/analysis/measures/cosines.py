"""Cosines of [CLS] and patches, of patches, of object and background, of registers.

"Vision Transformers Need Better Token Interaction" (arXiv:2605.23868) argues with the first,
"Revisiting [CLS] and Patch Token Interaction" (arXiv:2602.08626) with both around each norm.

Axis letters: b images, r roles, n tokens, d width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.measures.context import ROLES, BatchContext, Values
from vitlab.analysis.results import Measure

PATCHES = ("all", "foreground", "background")
_PAIRS = "Mean over pairs in an image, then over images; a zero vector has cosine 0."
MEASURES = (
    Measure(
        "cls_patch_cosine",
        "[CLS]-patch cosine",
        "",
        "cos(cls, patch) without registers: all patches, those on an object (foreground), and "
        f"those beside (background). {_PAIRS}",
    ),
    Measure(
        "patch_patch_cosine",
        "patch-patch cosine",
        "",
        "cos(patch, patch) over distinct pairs: of all patches, within the foreground, within the "
        f"background. {_PAIRS}",
    ),
    Measure(
        "diffusion_index",
        "diffusion index",
        "",
        "cos(patch, patch) over pairs of a foreground and a background patch: how much of the "
        f"object is in its surroundings. {_PAIRS}",
    ),
    Measure(
        "cls_registers_cosine",
        "[CLS]-register cosine",
        "",
        f"cos(cls, register), for encoders with registers. {_PAIRS}",
    ),
    Measure(
        "registers_patch_cosine",
        "register-patch cosine",
        "",
        f"cos(register, patch), for encoders with registers. {_PAIRS}",
    ),
)


def mean_cosines(
    x: Float[Tensor, "b n d"], roles: Float[Tensor, "b r n"]
) -> Float[Tensor, "b r r"]:
    """Return the mean cosine of tokens of two roles; of one role, over distinct pairs.

    No pair is formed: sum_ij cos(x_i, x_j) = (sum_i x_i / |x_i|) (sum_j x_j / |x_j|).

    Args:
        x: tokens.
        roles: 1 for the tokens of a role. Two roles that are compared must not overlap.

    Returns:
        NaN where there is no pair.
    """
    norms = torch.linalg.vector_norm(x, dim=-1)
    some = norms > 0
    sums = (roles.to(x.dtype) * (some / norms.masked_fill(~some, 1))[:, None]) @ x
    itself = torch.diag_embed((roles * some[:, None]).sum(-1))
    count = roles.sum(-1)
    pairs = count[:, :, None] * count[:, None] - torch.diag_embed(count)
    means = ((sums @ sums.mT - itself) / pairs.clamp_min(1)).clamp(-1, 1)
    return means.masked_fill(pairs == 0, torch.nan)


def measure(x: Float[Tensor, "b n d"], context: BatchContext) -> Values:
    """Return the cosines of each image."""
    means = mean_cosines(x, context.roles)
    place = {role: index for index, role in enumerate(ROLES)}

    def between(one: str, other: str) -> Float[Tensor, " b"]:
        return means[:, place[one], place[other]]

    return {
        **{("cls_patch_cosine", role): between("cls", role) for role in PATCHES},
        **{("patch_patch_cosine", role): between(role, role) for role in PATCHES},
        ("diffusion_index", ""): between("foreground", "background"),
        ("cls_registers_cosine", ""): between("cls", "registers"),
        ("registers_patch_cosine", ""): between("registers", "all"),
    }
