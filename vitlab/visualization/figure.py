"""Figures of photographs, several models side by side: the content of `vitlab figure`.

Each kind (PCA, attention, similarity, parts, masks) is a function from features to maps by model
and photograph; two layouts put maps on a grid: models side by side, or kinds side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders import Encoder, Tokens
from vitlab.option_types import Basis
from vitlab.probes import InferenceConfig
from vitlab.probes.logistic import LinearClassifier
from vitlab.progress import track
from vitlab.visualization.colors import (
    SIMILARITY,
    Key,
    apply_colormap,
    apply_palette,
    attention_image,
    attention_keys,
    categorical_colors,
    class_keys,
)
from vitlab.visualization.features import CLS, BlockFeatures, PatchMatrix, extract_block_features
from vitlab.visualization.grid import HEIGHT, GridColumn, ImageGrid
from vitlab.visualization.masks import predict_masks
from vitlab.visualization.parts import part_labels
from vitlab.visualization.pca import pca_colors
from vitlab.visualization.photographs import Photograph, Place

MASKS = "predicted mask"
FEW, LOW = 5, 110  # columns of the usual height, and the height of more, in pixels

SHARED = {
    "aligned": " Colors of further models are turned to those of the first.",
    "joint": " One basis for all models.",
    "each": " Colors of different models cannot be compared.",
}


@dataclass(frozen=True)
class ModelFeatures:
    """Features of all photographs after one block of one model, each photograph by itself."""

    label: str
    photographs: Sequence[BlockFeatures]

    @property
    def table(self) -> PatchMatrix:
        """The patches of all photographs."""
        return PatchMatrix.from_tokens([each.tokens for each in self.photographs])


@dataclass(frozen=True)
class MapSet:
    """Maps of one kind and the legend of their colors; images and notes by model and photo."""

    title: str
    images: Sequence[Sequence[Tensor]]
    keys: Sequence[Key] = ()
    caption: str = ""
    notes: Sequence[Sequence[str]] = ()  # a line below each image


def extract_features(
    models: Mapping[str, Encoder],
    photographs: Sequence[Photograph],
    size: int,
    loading: InferenceConfig,
    blocks: Sequence[int] = (-1,),
    places: Sequence[Place | None] | None = None,
) -> list[ModelFeatures]:
    """Return the features of photographs, each at its own aspect, one at a time.

    Args:
        models: in evaluation mode, by label.
        photographs: of any sizes.
        size: pixels of their long edges; 0 leaves them.
        loading: device of the models.
        blocks: whose output is returned; 0 is the first, -1 the last.
        places: if given, attention is kept: of the patch there, or of [CLS] for None.

    Raises:
        InputError: a block that a model does not have, or features that are not finite.
    """
    found: dict[str, list[list[BlockFeatures]]] = {label: [] for label in models}
    pairs = [(label, number) for label in models for number in range(len(photographs))]
    for label, number in track(pairs, "features of photographs"):
        photo, patch, query = photographs[number], models[label].patch_size, None
        if places is not None:
            place = places[number]
            query = [CLS if place is None else photo.patch_at(place, photo.grid(size, patch))]
        image = photo.fitted(size, patch)
        found[label].append(extract_block_features(models[label], image, loading, blocks, query))
    features = []
    for label, index in product(models, range(len(blocks))):
        block = blocks[index] % max(models[label].count_blocks(), 1)
        shown = label if list(blocks) == [-1] else f"{label}\nblock {block}"
        features.append(ModelFeatures(shown, [each[index] for each in found[label]]))
    return features


def pca_maps(
    features: Sequence[ModelFeatures], basis: Basis = "aligned", foreground: bool = False
) -> MapSet:
    """Return the first three principal components of the patch features as colors."""
    images = pca_colors([each.table for each in features], basis, foreground)
    caption = "PCA: first three principal components of patch features of all images as RGB."
    if foreground:
        caption += " Of the foreground alone, which the first one separates."
    return MapSet("PCA", images, caption=caption + SHARED[basis] * (len(features) > 1))


def attention_maps(
    features: Sequence[ModelFeatures], head: int | None, query: str = "[CLS]"
) -> MapSet:
    """Return the attention of one head, from 0, or the mean of heads for None.

    For models without a head of that number, or without attention, the map is white. Notes are the
    largest weight, and the share of exact zeros if there are any.
    """
    shown: list[Tensor] = []

    def draw(each: BlockFeatures) -> tuple[Tensor, str]:
        if each.attention is None:
            return torch.ones(3, *each.tokens.grid), "no attention"
        heads = each.attention[0]
        if head is not None and head >= len(heads):
            return torch.ones(3, *each.tokens.grid), ""
        weights = heads.mean(0) if head is None else heads[head]
        shown.append(weights)
        note = f"max {100 * float(weights.max()):.1f} %"
        if zeros := 100 * float((weights == 0).float().mean()):
            note += f", {zeros:.0f} % are 0"
        return attention_image(weights, each.tokens.grid), note

    drawn = [[draw(each) for each in model.photographs] for model in features]
    return MapSet(
        "mean of heads" if head is None else f"head {head}",
        [[image for image, _ in each] for each in drawn],
        attention_keys(shown),
        f"Attention of {query} over the patches; max: the largest weight of each map.",
        [[note for _, note in each] for each in drawn],
    )


def similarity_maps(
    features: Sequence[ModelFeatures], photographs: Sequence[Photograph], places: Sequence[Place]
) -> MapSet:
    """Return the cosine of every patch with the one at a place of its photograph."""
    queries = list(zip(photographs, places, strict=True))
    found = [
        [
            patch_similarity(each.tokens, photo.patch_at(place, each.tokens.grid))
            for each, (photo, place) in zip(model.photographs, queries, strict=True)
        ]
        for model in features
    ]
    low = min(0.0, *(float(each.min()) for several in found for each in several))
    images = [[apply_colormap(each, SIMILARITY, low, 1.0) for each in several] for several in found]
    keys = [Key(SIMILARITY, "1", f"{low:.2g}")]
    return MapSet("similarity", images, keys, "Similarity: cosine with the patch in the ring.")


def patch_similarity(tokens: Tokens, index: int) -> Float[Tensor, "_ _"]:
    """Return the cosine of each patch of an image with one of them; 0 for features that are 0."""
    unit = F.normalize(tokens.patches[0].double().cpu(), dim=1)
    return torch.clamp(unit @ unit[index], -1, 1).float().unflatten(0, tokens.grid)


def part_maps(features: Sequence[ModelFeatures], count: int) -> MapSet:
    """Return parts by k-means, the same for all photographs."""
    colors = categorical_colors(count)
    found = part_labels([each.table for each in features], count)
    images = [[apply_palette(each, colors) for each in several] for several in found]
    caption = f"Parts: k-means of patch features of unit length, k = {count}, over all images."
    return MapSet("parts", images, caption=caption)


def mask_maps(
    features: Sequence[ModelFeatures],
    heads: Sequence[LinearClassifier],
    classes: Sequence[str],
    training_data: str,
) -> MapSet:
    """Return the classes that a linear map of each model's patches predicts, at 16 pixels a patch.

    The training data of the maps are named in the caption.
    """
    found = [
        [
            predict_masks(head, each.tokens, (16 * each.tokens.grid[0], 16 * each.tokens.grid[1]))[
                0
            ]
            for each in model.photographs
        ]
        for model, head in zip(features, heads, strict=True)
    ]
    keys = class_keys([each for several in found for each in several], classes)
    images = [[apply_palette(each) for each in several] for several in found]
    caption = f"Masks: a linear map of patches, fitted to {training_data}."
    return MapSet(MASKS, images, keys, caption)


def grid_by_model(
    photographs: Sequence[Photograph],
    features: Sequence[ModelFeatures],
    maps: MapSet,
    places: Sequence[Place | None] = (),
) -> ImageGrid:
    """Return a row for each photograph, with rings at places, and a column for each model."""
    columns = [_photographs(photographs, places, 1)]
    for index, model in enumerate(features):
        notes = maps.notes[index] if maps.notes else ()
        columns.append(GridColumn(model.label, maps.images[index], notes=notes))
    return ImageGrid(columns, keys=maps.keys, caption=maps.caption)


def grid_by_kind(
    photographs: Sequence[Photograph],
    features: Sequence[ModelFeatures],
    kinds: Sequence[MapSet],
    places: Sequence[Place | None] = (),
) -> ImageGrid:
    """Return a row for each photograph and model, and a column for each kind."""
    columns = [_photographs(photographs, places, len(features))]
    count = range(len(photographs))
    for maps in kinds:
        images = [several[photo] for photo in count for several in maps.images]
        notes = [several[photo] for photo in count for several in maps.notes]
        bars = [] if maps.title == MASKS else maps.keys
        columns.append(GridColumn(maps.title, images, bars, notes=notes))
    labels = [model.label for _ in count for model in features]
    # classes are many, and have a line of their own
    keys = [key for maps in kinds if maps.title == MASKS for key in maps.keys]
    caption = " ".join(dict.fromkeys(each.caption for each in kinds if each.caption))
    return ImageGrid(columns, labels, keys, caption, HEIGHT if len(kinds) <= FEW else LOW)


def _photographs(
    photographs: Sequence[Photograph], places: Sequence[Place | None], times: int
) -> GridColumn:
    """Return the first column of a grid, each photograph so many times."""
    images = [photo.pixels / 255 for photo in photographs for _ in range(times)]
    marks = [
        place and photo.share(place)
        for photo, place in zip(photographs, places, strict=False)
        for _ in range(times)
    ]
    return GridColumn("image", images, smooth=True, marks=marks)
