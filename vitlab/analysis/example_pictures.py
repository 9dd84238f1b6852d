"""Example pictures for the report of `vitlab analyze`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab.analysis.report import Picture
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.encoders.hooks import has_attention
from vitlab.probes import InferenceConfig
from vitlab.visualization import figure
from vitlab.visualization.photographs import Photograph, Place

PARTS = 6


def example_pictures(
    models: Mapping[str, Encoder],
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    masks: Sequence[UInt8[Tensor, "_ _"]] | None,
    inference: InferenceConfig | None = None,
) -> list[Picture]:
    """Return PCA, [CLS] attention, similarity to the object and parts, models side by side.

    All by the last block, and by the functions that `vitlab figure` draws with.

    Args:
        models: by label, in evaluation mode.
        images: a few, RGB, of any sizes; edges that are no multiples of the patch are resized.
        masks: of their sizes; what is neither 0 nor void is the object. None if there are none.
        inference: where the models are; the CPU by default.
    """
    photographs = [Photograph(f"image {i}", image.cpu()) for i, image in enumerate(images)]
    no_places: list[Place | None] = [None] * len(images)
    known: Sequence[Tensor | None] = [None] * len(images) if masks is None else masks
    places = [middle(mask, *photo.size) for mask, photo in zip(known, photographs, strict=True)]
    inference = inference or InferenceConfig(torch.device("cpu"))
    seen = figure.extract_features(models, photographs, 0, inference, places=no_places)
    at = f" It is the middle of the {'image' if masks is None else 'object'}."
    similarity = figure.similarity_maps(seen, photographs, places)
    found = []
    attending = any(has_attention(encoder) for encoder in models.values())
    for title, more, maps, rings in (
        ("PCA of patch features", "", figure.pca_maps(seen), ()),
        ("[CLS] attention", " Last block, mean of heads.", figure.attention_maps(seen, None), ()),
        ("Similarity", at, similarity, places),
        ("Parts", "", figure.part_maps(seen, PARTS), ()),
    ):
        if "attention" in title and not attending:
            continue
        grid = figure.grid_by_model(photographs, seen, replace(maps, caption=""), rings)
        found.append(Picture(title, maps.caption + more, grid.encode()))
    return found


def middle(mask: UInt8[Tensor, "h w"] | None, height: int, width: int) -> Place:
    """Return the pixel of the object that is nearest to its mean; else the middle of the image."""
    if mask is not None:
        inside = ((mask != 0) & (mask != IGNORE_INDEX)).nonzero()
        if len(inside):
            distance = (inside - inside.double().mean(0)).square().sum(1)
            y, x = inside[int(distance.argmin())].tolist()
            return x, y
    return width // 2, height // 2
