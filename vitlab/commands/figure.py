"""`vitlab figure`: one's own photographs as encoders see them."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import track

from vitlab.commands.analyze import read
from vitlab.commands.device import choose_device
from vitlab.commands.figure_words import blocks_of, parser, places_in, refuse
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders import Encoder
from vitlab.encoders.vit import Block
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.logistic import LinearClassifier
from vitlab.visualization import figure
from vitlab.visualization.grid import ImageGrid
from vitlab.visualization.photographs import Photograph, read_photographs

GIB = 2**30
MOST_MEMORY = 4 * GIB  # of one block's attention where it is written out


def run(words: Sequence[str]) -> None:
    """Draw a figure.

    Raises:
        ValueError: what cannot be drawn: what was given, what is allowed, what to do.
        OSError: a photograph that cannot be read.
    """
    given = parser().parse_args(list(words))
    refuse(given)
    photographs = read_photographs(given.images)
    places = places_in(given, photographs)
    if len(places) > len(photographs):  # several places of one photograph
        photographs = photographs * len(places)
    data = recognize(given.masks) if given.masks else None
    models = {each.model.label: each.encoder.eval() for each in read(given)}
    blocks = blocks_of(given, models)
    most = max(heads_of(encoder) for encoder in models.values())
    if given.head.isdecimal() and int(given.head) >= most:
        raise ValueError(f"--head {given.head} is in no model; they have 0 to {most - 1}")
    for photo in photographs:
        for label, encoder in models.items():
            refuse_memory(given, label, encoder, photo)
    _tell(given, photographs, models)
    loading = InferenceConfig(choose_device(given.device), batch_size=16)
    for encoder in models.values():
        encoder.to(loading.device)
    heads = _fitted(given, models, data, loading) if data is not None else None
    queries: Sequence[figure.Place | None] | None = None
    if given.kind in ("attention", "all"):
        queries = places if given.kind == "attention" else [None] * len(places)
    seen = figure.extract_features(
        models, photographs, given.size, loading, blocks, queries, _progress
    )
    _sheet(given, photographs, places, seen, heads).save(given.out)
    Console().print(f"figure  {given.out}", soft_wrap=True)


def heads_of(encoder: Encoder) -> int:
    """Return the number of heads in each block."""
    return int(getattr(getattr(encoder, "inner", encoder), "heads", 1))


def refuse_memory(
    given: argparse.Namespace, label: str, encoder: Encoder, photo: Photograph
) -> None:
    """Refuse attention that would not fit, where it is written out: scores, weights and a copy."""
    blocks = [block for block in encoder.modules() if isinstance(block, Block)]
    always = any(  # no fused kernel
        block.prompts is not None
        or block.attn.gaug is not None
        or block.attn.normalizer.alpha not in (1, 1.5)
        for block in blocks
    )
    if not (always or given.kind in ("attention", "all")):
        return
    rows, columns = photo.grid(given.size, encoder.patch_size)
    needed = 3 * 4 * heads_of(encoder) * (rows * columns) ** 2
    if needed > MOST_MEMORY:
        edge = int(max(rows, columns) * encoder.patch_size * (MOST_MEMORY / needed) ** 0.25)
        raise ValueError(
            f"{photo.name} has {rows * columns} patches of {encoder.patch_size} pixels, whose "
            f"attention in one block of {label} takes {needed / GIB:.1f} GiB, of "
            f"{MOST_MEMORY / GIB:.0f} allowed; use "
            f"--size {edge // encoder.patch_size * encoder.patch_size}"
        )


def _progress(work: Sequence) -> Iterable:
    return track(work, "looking")


def _tell(
    given: argparse.Namespace, photographs: Sequence[Photograph], models: dict[str, Encoder]
) -> None:
    console = Console()
    for patch in sorted({encoder.patch_size for encoder in models.values()}):
        for line in dict.fromkeys(photo.told(given.size, patch) for photo in photographs):
            console.print(line, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class _Heads:
    """Linear maps of the models' patches, the classes they know, and what they learned from."""

    maps: Sequence[LinearClassifier]
    classes: Sequence[str]
    learned: str


def _fitted(
    given: argparse.Namespace,
    models: dict[str, Encoder],
    data: VisionDataModule,
    loading: InferenceConfig,
) -> _Heads:
    """Fit a linear map to each model's patches."""
    maps = []
    for encoder in track(models.values(), "fitting to masks", total=len(models)):
        edge = max(1, (given.size or 448) // encoder.patch_size) * encoder.patch_size
        images = data.segmentation_dataset(
            data.train_split, SegmentationSquare(edge), given.masks_images
        )
        with torch.no_grad():
            maps.append(DenseProbe(data.num_classes).fit(encoder, images, loading))
    learned = f"{len(images)} images of {type(data).__name__} {data.train_split}"
    return _Heads(maps, data.classes, learned)


def _sheet(
    given: argparse.Namespace,
    photographs: Sequence[Photograph],
    places: Sequence[figure.Place | None],
    seen: Sequence[figure.ModelFeatures],
    heads: _Heads | None,
) -> ImageGrid:
    """Return the sheet of the kind that is asked for."""
    marked = [place for place in places if place is not None]
    masks = []
    if heads is not None:
        masks = [figure.mask_maps(seen, heads.maps, heads.classes, heads.learned)]
    if given.kind == "all":
        kinds = [
            replace(figure.pca_maps(seen, given.basis, given.foreground), title="PCA"),
            replace(figure.attention_maps(seen, None), title="[CLS] attention", notes=()),
            figure.similarity_maps(seen, photographs, marked),
            figure.part_maps(seen, given.parts),
            *masks,
        ]
        return figure.grid_by_kind(photographs, seen, kinds, places)
    if given.kind == "attention":
        whose = "the patch in the ring" if marked else "[CLS]"
        if given.head != "all":
            head = None if given.head == "mean" else int(given.head)
            maps = figure.attention_maps(seen, head, whose)
        else:
            rows = (each.attention for view in seen for each in view.seen)
            most = max(each.shape[1] for each in rows if each is not None)
            numbers = [*range(most), None]
            kinds = [figure.attention_maps(seen, number, whose) for number in numbers]
            return figure.grid_by_kind(photographs, seen, kinds, places)
    elif given.kind == "pca":
        maps = figure.pca_maps(seen, given.basis, given.foreground)
    elif given.kind == "similarity":
        maps = figure.similarity_maps(seen, photographs, marked)
    elif given.kind == "parts":
        maps = figure.part_maps(seen, given.parts)
    else:
        (maps,) = masks
    rings = places if given.kind in ("attention", "similarity") else ()
    return figure.grid_by_model(photographs, seen, maps, rings)
