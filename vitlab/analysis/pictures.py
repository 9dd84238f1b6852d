"""Example pictures for the report of `vitlab analyze`: what the numbers are about."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab.analysis.report import Picture
from vitlab.data.views.segmentation import IGNORE
from vitlab.encoders import Encoder
from vitlab.pictures.figure import (
    Maps,
    Place,
    alike,
    attention,
    in_parts,
    principal,
    side_by_side,
    views,
)
from vitlab.pictures.photographs import Photograph
from vitlab.pictures.sheet import content
from vitlab.probes import Loading

PARTS = 6


def example_pictures(
    models: Mapping[str, Encoder],
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    masks: Sequence[UInt8[Tensor, "_ _"]] | None,
    loading: Loading | None = None,
) -> list[Picture]:
    """Return PCA, [CLS] attention, similarity to the object and parts, models side by side.

    All by the last block, and by the functions that `vitlab figure` draws with.

    Args:
        models: by label, in evaluation mode.
        images: a few, RGB, of any sizes; edges that are no multiples of the patch are resized.
        masks: of their sizes; what is neither 0 nor void is the object. None if there are none.
        loading: where the models are; the CPU by default.
    """
    photographs = [Photograph(f"image {i}", image.cpu()) for i, image in enumerate(images)]
    known: Sequence[Tensor | None] = masks if masks is not None else [None] * len(photographs)
    places = [middle(mask, *photo.size) for mask, photo in zip(known, photographs, strict=True)]
    loading = loading or Loading(torch.device("cpu"))
    seen = views(models, photographs, 0, loading, places=[None] * len(photographs))
    of_object = "the middle of the object" if masks is not None else "the middle of the image"
    kinds: list[tuple[str, str, Maps, Sequence[Place]]] = [
        ("PCA of patch features", "", principal(seen), ()),
        ("[CLS] attention", " Last block, mean of heads.", attention(seen, None), ()),
        ("Similarity", f" It is {of_object}.", alike(seen, photographs, places), places),
        ("Parts", "", in_parts(seen, PARTS), ()),
    ]
    found = []
    for title, more, maps, rings in kinds:
        sheet = side_by_side(photographs, seen, maps, rings, caption=False)
        found.append(Picture(title, maps.caption + more, content(sheet)))
    return found


def middle(mask: UInt8[Tensor, "h w"] | None, height: int, width: int) -> Place:
    """Return the pixel of the object that is nearest to its mean; else the middle of the image."""
    if mask is not None:
        inside = ((mask != 0) & (mask != IGNORE)).nonzero()
        if len(inside):
            distance = (inside - inside.double().mean(0)).square().sum(1)
            y, x = inside[int(distance.argmin())].tolist()
            return x, y
    return width // 2, height // 2
