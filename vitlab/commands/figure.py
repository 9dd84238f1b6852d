"""`vitlab figure`: photographs as encoders represent them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import track

from vitlab.commands.device import choose_device
from vitlab.commands.figure_options import EXAMPLES, FigureOptions, blocks_of, places_of
from vitlab.commands.parser import parse
from vitlab.data import SegmentationSquare
from vitlab.encoders import Encoder
from vitlab.encoders.attention import Attention
from vitlab.encoders.vit import Block
from vitlab.errors import InputError
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.visualization import figure
from vitlab.visualization.grid import ImageGrid
from vitlab.visualization.photographs import Photograph, read_photographs

GIB = 2**30
MAX_ATTENTION = 4 * GIB  # of one block, where the matrix is materialized


def run(words: Sequence[str]) -> None:
    """Draw a figure.

    Raises:
        InputError: the options contradict each other, the photographs or the models.
        OSError: a photograph that cannot be read.
    """
    options = parse(FigureOptions, words, "vitlab figure", EXAMPLES)
    device = choose_device(options.device)
    photographs = read_photographs(options.images)
    places = places_of(options, photographs)
    if len(places) > len(photographs):  # several places of one photograph
        photographs = photographs * len(places)
    models = {each.info.label: each.encoder.eval() for each in options.load_encoders()}
    blocks = blocks_of(options, models)
    most = max(map(_num_heads, models.values()))
    if options.head.isdecimal() and int(options.head) >= most:
        raise InputError(
            f"--head {options.head} is in no model; they have 0 to {most - 1}", field="--head"
        )
    for photo in photographs:
        for label, encoder in models.items():
            _check_memory(options, label, encoder, photo)
    console = Console()
    for patch in sorted({encoder.patch_size for encoder in models.values()}):
        for line in dict.fromkeys(each.summary(options.long_edge, patch) for each in photographs):
            console.print(line, soft_wrap=True, highlight=False)
    inference = InferenceConfig(device, batch_size=16)
    for encoder in models.values():
        encoder.to(device)
    queries: Sequence[figure.Place | None] | None = None
    if options.kind in ("attention", "all"):
        queries = places if options.kind == "attention" else [None] * len(places)
    features = figure.extract_features(
        models,
        photographs,
        options.long_edge,
        inference,
        blocks,
        queries,
        lambda pairs: track(pairs, "encoding"),
    )
    masks = None
    if options.data is not None:
        masks = _mask_maps(options, features, models, inference)
    _grid(options, photographs, places, features, masks).save(options.out)
    console.print(f"figure  {options.out}", soft_wrap=True)


def _num_heads(encoder: Encoder) -> int:
    layers = [module for module in encoder.modules() if isinstance(module, Attention)]
    return max((each.num_heads for each in layers), default=1)


def _check_memory(options: FigureOptions, label: str, encoder: Encoder, photo: Photograph) -> None:
    """Refuse attention matrices that would not fit: scores, weights and a copy."""
    blocks = [block for block in encoder.modules() if isinstance(block, Block)]
    no_kernel = any(
        block.prompts is not None
        or block.attn.gaug is not None
        or block.attn.normalizer.alpha not in (1, 1.5)
        for block in blocks
    )
    if not (no_kernel or options.kind in ("attention", "all")):
        return
    patch = encoder.patch_size
    rows, columns = photo.grid(options.long_edge, patch)
    needed = 3 * 4 * _num_heads(encoder) * (rows * columns) ** 2
    if needed > MAX_ATTENTION:
        edge = int(max(rows, columns) * patch * (MAX_ATTENTION / needed) ** 0.25)
        raise InputError(
            f"{photo.name} has {rows * columns} patches of {patch} pixels, whose attention in one "
            f"block of {label} takes {needed / GIB:.1f} GiB, of {MAX_ATTENTION / GIB:.0f} allowed; "
            f"use --size {edge // patch * patch}",
            field="--size",
        )


def _mask_maps(
    options: FigureOptions,
    features: Sequence[figure.ModelFeatures],
    models: dict[str, Encoder],
    inference: InferenceConfig,
) -> figure.MapSet:
    """Fit a linear map to each model's patches, and predict the classes of the photographs."""
    data = options.data
    assert data is not None
    heads = []
    for encoder in track(models.values(), "fitting to masks", total=len(models)):
        edge = max(1, (options.long_edge or 448) // encoder.patch_size) * encoder.patch_size
        images = data.segmentation_dataset(
            data.train_split, SegmentationSquare(edge), options.masks_images
        )
        with torch.no_grad():
            heads.append(DenseProbe(data.num_classes).fit(encoder, images, inference).classifier)
    training_data = f"{len(images)} images of {type(data).__name__} {data.train_split}"
    return figure.mask_maps(features, heads, data.classes, training_data)


def _grid(
    options: FigureOptions,
    photographs: Sequence[Photograph],
    places: Sequence[figure.Place | None],
    features: Sequence[figure.ModelFeatures],
    masks: figure.MapSet | None,
) -> ImageGrid:
    """Return the grid of this kind of figure."""
    kind = options.kind
    marked = [place for place in places if place is not None]
    query = "the patch in the ring" if marked else "[CLS]"
    if kind == "attention" and options.head == "all":
        attention = [photo.attention for model in features for photo in model.photographs]
        most = max(each.shape[1] for each in attention if each is not None)
        kinds = [figure.attention_maps(features, head, query) for head in [*range(most), None]]
        return figure.grid_by_kind(photographs, features, kinds, places)
    if kind == "attention":
        head = None if options.head == "mean" else int(options.head)
        maps = figure.attention_maps(features, head, query)
        return figure.grid_by_model(photographs, features, maps, places)
    draw = {
        "pca": lambda: figure.pca_maps(features, options.basis, options.foreground),
        "attention": lambda: replace(
            figure.attention_maps(features, None), title="[CLS] attention", notes=()
        ),
        "similarity": lambda: figure.similarity_maps(features, photographs, marked),
        "parts": lambda: figure.part_maps(features, options.parts),
        **({} if masks is None else {"masks": lambda: masks}),
    }
    if kind == "all":
        kinds = [each() for each in draw.values()]
        return figure.grid_by_kind(photographs, features, kinds, places)
    rings = places if kind == "similarity" else ()
    return figure.grid_by_model(photographs, features, draw[kind](), rings)
