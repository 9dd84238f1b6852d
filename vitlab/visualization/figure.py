"""Figures of one's own photographs, models side by side: what `vitlab figure` draws.

Each kind is a function from what models see to maps, by model and photograph; two layouts put them
on a sheet: models side by side, or kinds side by side.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitlab.encoders import Encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.layer_selection import depth_of
from vitlab.probes.logistic import LinearClassifier
from vitlab.visualization.attention import attention_keys, attention_map, sparsity
from vitlab.visualization.colors import SIMILARITY, categorical_colors, indexed, shaded
from vitlab.visualization.features import CLS, Seen, Table, look
from vitlab.visualization.grid import HEIGHT, GridColumn, ImageGrid, Key, Scale
from vitlab.visualization.masks import class_keys, predicted
from vitlab.visualization.parts import part_labels
from vitlab.visualization.pca import Basis, pca_colors
from vitlab.visualization.photographs import Photograph
from vitlab.visualization.similarity import similarity

Place = tuple[int, int]  # x and y in a photograph's own pixels
FEW, SMALL = 5, 110  # columns that have the usual height, and the height of more, in pixels

SHARED = {
    "aligned": "The colors of a model are turned to those of the first, which are its own.",
    "joint": "One basis for all models.",
    "each": "Each model has a basis of its own: its colors cannot be compared with another's.",
}


@dataclass(frozen=True)
class ModelFeatures:
    """What one model sees, after one block.

    Attributes:
        label: of model and block.
        seen: of each photograph by itself.
    """

    label: str
    seen: Sequence[Seen]

    @property
    def table(self) -> Table:
        """The patches of all photographs."""
        return Table.of([each.tokens for each in self.seen])


@dataclass(frozen=True)
class MapSet:
    """Maps of one kind.

    Attributes:
        title: what they show.
        images: by view, then by photograph.
        keys: what their colors mean.
        caption: how they were made.
        notes: a line below each, like the images; or none.
    """

    title: str
    images: Sequence[Sequence[Tensor]]
    keys: Sequence[Key | Scale] = ()
    caption: str = ""
    notes: Sequence[Sequence[str]] = field(default=())


def extract_features(
    models: Mapping[str, Encoder],
    photographs: Sequence[Photograph],
    size: int,
    loading: InferenceConfig,
    blocks: Sequence[int] = (-1,),
    places: Sequence[Place | None] | None = None,
    track: Callable[[Sequence], Iterable] = iter,
) -> list[ModelFeatures]:
    """Return what models see in photographs, each at its own aspect, one at a time.

    Args:
        models: in evaluation mode, by label.
        photographs: of any sizes.
        size: pixels of their long edges; 0 leaves them.
        loading: where the models are.
        blocks: that are looked behind; 0 is the first, -1 the last.
        places: if given, attention is kept: of the patch there, or of [CLS] for None.
        track: shows progress over the models and photographs.

    Raises:
        ValueError: a block that a model does not have, or features that are not finite.
    """
    pairs = [(label, photo) for label in models for photo in range(len(photographs))]
    found: dict[str, list[list[Seen]]] = {label: [] for label in models}
    for label, number in track(pairs):
        encoder, photo = models[label], photographs[number]
        query = None
        if places is not None:
            place, grid = places[number], photo.grid(size, encoder.patch_size)
            query = [CLS if place is None else photo.patch_at(place, grid)]
        image = photo.fitted(size, encoder.patch_size)
        found[label].append(look(encoder, image, loading, blocks, query))
    return [
        ModelFeatures(
            _label(label, models[label], block, blocks), [seen[place] for seen in of_photographs]
        )
        for label, of_photographs in found.items()
        for place, block in enumerate(blocks)
    ]


def _label(label: str, encoder: Encoder, block: int, blocks: Sequence[int]) -> str:
    if list(blocks) == [-1]:
        return label
    return f"{label}\nblock {block % max(depth_of(encoder), 1)}"


def pca_maps(
    seen: Sequence[ModelFeatures], basis: Basis = "aligned", foreground: bool = False
) -> MapSet:
    """Return the first three principal components of the patch features as colors."""
    images = pca_colors([view.table for view in seen], basis, foreground)
    caption = "PCA: first three principal components of patch features of all images as RGB."
    if foreground:
        caption += " Of the foreground alone, as the first component of all patches separates it."
    return MapSet(
        "PCA", images, caption=f"{caption} {SHARED[basis] if len(seen) > 1 else ''}".strip()
    )


def attention_maps(seen: Sequence[ModelFeatures], head: int | None, whose: str = "[CLS]") -> MapSet:
    """Return the attention of one head, from 0, or the mean of heads.

    Where a model has no head of that number, the map is white.
    """
    images: list[list[Tensor]] = []
    rows: list[Tensor] = []
    notes: list[list[str]] = []
    for view in seen:
        images.append([])
        notes.append([])
        for each in view.seen:
            assert each.attention is not None
            found = each.attention[0]
            if head is not None and head >= len(found):
                images[-1].append(torch.ones(3, *each.tokens.grid))
                notes[-1].append("")
                continue
            row = found.mean(0) if head is None else found[head]
            rows.append(row)
            images[-1].append(attention_map(row, each.tokens.grid))
            notes[-1].append(sparsity(row))
    title = "mean of heads" if head is None else f"head {head}"
    return MapSet(
        title, images, attention_keys(rows), f"Attention of {whose} over the patches.", notes
    )


def similarity_maps(
    seen: Sequence[ModelFeatures], photographs: Sequence[Photograph], places: Sequence[Place]
) -> MapSet:
    """Return the cosine of every patch with the one at a place of its photograph."""
    found = [
        [
            similarity(each.tokens.patches[0], photo.patch_at(place, each.tokens.grid)).unflatten(
                0, each.tokens.grid
            )
            for each, photo, place in zip(view.seen, photographs, places, strict=True)
        ]
        for view in seen
    ]
    low = min(0.0, *(float(each.min()) for several in found for each in several))
    images = [[shaded(each, SIMILARITY, low, 1.0) for each in several] for several in found]
    keys = [Scale(SIMILARITY, f"{low:.2g}", "1 (cosine)")]
    return MapSet("similarity", images, keys, "Similarity: cosine with the patch in the ring.")


def part_maps(seen: Sequence[ModelFeatures], count: int) -> MapSet:
    """Return parts by k-means, the same for all photographs."""
    colors = categorical_colors(count)
    found = part_labels([view.table for view in seen], count)
    images = [[indexed(each, colors) for each in several] for several in found]
    caption = f"Parts: k-means of patch features of unit length, k = {count}, over all images."
    if len(seen) > 1:
        caption += " A model's own, colored as those of the first that they overlap most with."
    return MapSet("parts", images, caption=caption)


def mask_maps(
    seen: Sequence[ModelFeatures],
    heads: Sequence[LinearClassifier],
    classes: Sequence[str],
    learned: str,
) -> MapSet:
    """Return the classes that a linear map of each view's patches predicts.

    Args:
        seen: by the models that the maps were fitted to.
        heads: one for each view.
        classes: their names.
        learned: what the maps were fitted to, in words.
    """
    found = [
        [predicted(head, each.tokens, _enlarged(each))[0] for each in view.seen]
        for view, head in zip(seen, heads, strict=True)
    ]
    keys = class_keys([each for several in found for each in several], classes)
    images = [[indexed(each) for each in several] for several in found]
    return MapSet(
        "predicted mask", images, keys, f"Masks: a linear map of patches, fitted to {learned}."
    )


def _enlarged(seen: Seen) -> tuple[int, int]:
    rows, columns = seen.tokens.grid
    return 16 * rows, 16 * columns


def grid_by_model(
    photographs: Sequence[Photograph],
    seen: Sequence[ModelFeatures],
    maps: MapSet,
    places: Sequence[Place | None] = (),
    caption: bool = True,
) -> ImageGrid:
    """Return a row for each photograph, and a column for each view.

    Args:
        photographs: in the first column.
        seen: the views.
        maps: of them.
        places: of rings in the photographs.
        caption: whether the sheet says how the maps were made.
    """
    columns = [_photographs(photographs, places, 1)]
    for place, view in enumerate(seen):
        notes = maps.notes[place] if maps.notes else ()
        columns.append(GridColumn(view.label, maps.images[place], notes=notes))
    return ImageGrid(columns, keys=[maps.keys], caption=maps.caption if caption else "")


def grid_by_kind(
    photographs: Sequence[Photograph],
    seen: Sequence[ModelFeatures],
    kinds: Sequence[MapSet],
    places: Sequence[Place | None] = (),
) -> ImageGrid:
    """Return a row for each photograph and view, and a column for each kind."""
    columns = [_photographs(photographs, places, len(seen))]
    count = range(len(photographs))
    for maps in kinds:
        images = [several[photo] for photo in count for several in maps.images]
        notes = [several[photo] for photo in count for several in maps.notes]
        columns.append(GridColumn(maps.title, images, notes=notes))
    labels = [view.label for _ in count for view in seen]
    keys = [maps.keys for maps in {str(each.keys): each for each in kinds}.values()]
    caption = " ".join(dict.fromkeys(each.caption for each in kinds if each.caption))
    height = HEIGHT if len(kinds) <= FEW else SMALL
    return ImageGrid(columns, labels, keys, caption, height)


def _photographs(
    photographs: Sequence[Photograph], places: Sequence[Place | None], times: int
) -> GridColumn:
    repeated = [photo for photo in photographs for _ in range(times)]
    marks = [
        None if place is None else photo.share(place)
        for photo, place in zip(photographs, places, strict=False)
        for _ in range(times)
    ]
    return GridColumn("image", [each.pixels / 255 for each in repeated], smooth=True, marks=marks)
