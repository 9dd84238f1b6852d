"""The work of `vitlab figure`: photographs as encoders represent them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch

from vitlab.commands.device import choose_device
from vitlab.commands.figure import FigureOptions
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.encoders.attention import Attention
from vitlab.encoders.hooks import has_attention
from vitlab.encoders.vit import Block
from vitlab.errors import InputError
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.dense import encode_by
from vitlab.probes.layer_selection import LayerSelection, check_layers
from vitlab.progress import track
from vitlab.terminal import say
from vitlab.visualization import figure
from vitlab.visualization.photographs import Photograph, Place, read_photographs

GIB, MAX_ATTENTION = 2**30, 2**32  # bytes; of one block, where the matrix is materialized


def draw(options: FigureOptions) -> None:
    """Draw a figure.

    Raises:
        InputError: the options contradict each other, the photographs or the models.
        OSError: a photograph that cannot be read.
    """
    inference = InferenceConfig(choose_device(options.device), batch_size=16)
    photographs = read_photographs(options.images)
    places = _places(options, photographs)
    if len(places) > len(photographs):  # several places of one photograph
        photographs = photographs * len(places)
    models = {each.info.label: each.encoder.eval() for each in options.load_encoders()}
    blocks = _blocks(options, models)
    heads = max(map(_num_heads, models.values()))
    if options.head.isdecimal() and int(options.head) >= heads:
        raise InputError(
            f"--head {options.head} is in no model; they have 0 to {heads - 1}", field="--head"
        )
    if options.kind == "attention" and not any(map(has_attention, models.values())):
        raise InputError("no model has blocks with attention weights; draw all", field="kind")
    _check_memory(options, models, photographs)
    for patch in sorted({encoder.patch_size for encoder in models.values()}):
        for line in dict.fromkeys(each.summary(options.long_edge, patch) for each in photographs):
            say(line)
    for encoder in models.values():
        encoder.to(inference.device)
    queries: list[Place | None] | None = None
    if options.kind in ("attention", "all"):
        queries = places if options.kind == "attention" else [None] * len(places)
    features = figure.extract_features(
        *(models, photographs, options.long_edge, inference, blocks, queries),
    )
    maps = _maps(options, photographs, places, features, heads)
    if options.data is not None:
        maps.append(_mask_maps(options, options.data, features, models, inference))
    rings = places if options.kind in ("attention", "similarity", "all") else ()
    if len(maps) > 1:
        grid = figure.grid_by_kind(photographs, features, maps, rings)
    else:
        grid = figure.grid_by_model(photographs, features, maps[0], rings)
    grid.save(options.out)
    say(f"figure  {options.out}")


def _places(options: FigureOptions, photographs: list[Photograph]) -> list[Place | None]:
    """Return a place for each photograph, or several of one; None is [CLS], of attention."""
    count = len(photographs)
    if not options.at:
        if options.kind == "attention":
            return [None] * count
        return [(photo.size[1] // 2, photo.size[0] // 2) for photo in photographs]
    places: list[Place] = []
    for word in options.at:
        x, _, y = word.partition(",")
        if not (x.isdecimal() and y.isdecimal()):
            raise InputError(
                f"--at {word} is no place; give x,y in pixels, such as 210,140", field="--at"
            )
        places.append((int(x), int(y)))
    if len(places) == 1:
        places = places * count
    if count > 1 and len(places) != count:
        raise InputError(
            f"--at has {len(places)} places for {count} photographs; give one for each, or for all",
            field="--at",
        )
    for photo, place in zip(photographs * (len(places) // count), places, strict=True):
        photo.patch_at(place, (1, 1))
    return list(places)


def _blocks(options: FigureOptions, models: dict[str, Encoder]) -> list[int]:
    """Return the blocks that are drawn, which every model has."""
    words = options.block
    depths = sorted({encoder.count_blocks() for encoder in models.values()})
    if words == ["all"] and len(depths) == 1:
        words = [str(block) for block in range(max(depths[0], 1))]
    try:
        blocks = [int(word) for word in words]
    except ValueError as error:
        raise InputError(
            f"--block {' '.join(words)}: give numbers, 0 for the first and -1 for the last, or all "
            f"for models of one depth; these have {', '.join(map(str, depths))} blocks",
            field="--block",
        ) from error
    for encoder in models.values():
        check_layers(encoder, [LayerSelection(tuple(blocks))])
    return blocks


def _num_heads(encoder: Encoder) -> int:
    layers = [module for module in encoder.modules() if isinstance(module, Attention)]
    return max((each.num_heads for each in layers), default=1)


def _check_memory(
    options: FigureOptions, models: dict[str, Encoder], photographs: Sequence[Photograph]
) -> None:
    """Refuse attention matrices that would not fit: scores, weights and a copy."""
    for (label, encoder), photo in product(models.items(), photographs):
        patch = encoder.patch_size
        rows, columns = photo.grid(options.long_edge, patch)
        needed = 3 * 4 * _num_heads(encoder) * (rows * columns) ** 2
        written_out = options.kind in ("attention", "all") or any(
            block.prompts is not None
            or block.attn.gaug is not None
            or block.attn.normalizer.alpha not in (1, 1.5)
            for block in encoder.modules()
            if isinstance(block, Block)
        )
        if written_out and needed > MAX_ATTENTION:
            edge = int(max(rows, columns) * patch * (MAX_ATTENTION / needed) ** 0.25)
            raise InputError(
                f"attention of {photo.name}, {rows * columns} patches, takes {needed / GIB:.1f} "
                f"GiB in one block of {label}, of {MAX_ATTENTION / GIB:.0f} allowed; use "
                f"--size {edge // patch * patch}",
                field="--size",
            )


def _mask_maps(
    options: FigureOptions,
    data: VisionDataModule,
    features: Sequence[figure.ModelFeatures],
    models: dict[str, Encoder],
    inference: InferenceConfig,
) -> figure.MapSet:
    """Fit a linear map to each model's patches, and predict the classes of the photographs."""
    heads = []
    for encoder in track(models.values(), "fitting to masks"):
        edge = max(1, (options.long_edge or 448) // encoder.patch_size) * encoder.patch_size
        images = data.segmentation_dataset(
            data.train_split, SegmentationSquare(edge), options.masks_images
        )
        with torch.no_grad():
            encode = encode_by(encoder, inference)
            heads += DenseProbe(data.num_classes).fit(encode, images, inference)
    training_data = f"{len(images)} images of {type(data).__name__} {data.train_split}"
    return figure.mask_maps(features, heads, data.classes, training_data)


def _maps(
    options: FigureOptions,
    photographs: Sequence[Photograph],
    places: Sequence[Place | None],
    features: Sequence[figure.ModelFeatures],
    heads: int,
) -> list[figure.MapSet]:
    """Return the maps of this kind of figure but for masks: one set, or one per head or kind."""
    marked = [place for place in places if place is not None]
    if options.kind == "attention":
        query = "the patch in the ring" if marked else "[CLS]"
        chosen: list[int | None] = [*range(heads), None]
        if options.head != "all":
            chosen = [None if options.head == "mean" else int(options.head)]
        return [figure.attention_maps(features, head, query) for head in chosen]
    found = []
    if options.kind in ("pca", "all"):
        found.append(figure.pca_maps(features, options.basis, options.foreground))
    if options.kind == "all" and any(
        each.photographs[0].attention is not None for each in features
    ):
        attention = figure.attention_maps(features, None)
        found.append(replace(attention, title="[CLS] attention", notes=()))
    if options.kind in ("similarity", "all"):
        found.append(figure.similarity_maps(features, photographs, marked))
    if options.kind in ("parts", "all"):
        found.append(figure.part_maps(features, options.parts))
    return found
