"""`vitlab figure`: photographs as encoders represent them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track

from vitlab.commands.device import choose_device
from vitlab.commands.parser import DATASET, POSITIONAL, parse
from vitlab.commands.weights_option import WeightsOptions
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.encoders.attention import Attention
from vitlab.encoders.hooks import has_attention
from vitlab.encoders.vit import Block
from vitlab.errors import InputError
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.dense import encode_by
from vitlab.probes.layer_selection import LayerSelection, check_layers, depth_of
from vitlab.visualization import figure
from vitlab.visualization.grid import ENDINGS
from vitlab.visualization.pca import Basis
from vitlab.visualization.photographs import Photograph, Place, read_photographs

GIB, MAX_ATTENTION = 2**30, 2**32  # bytes; of one block, where the matrix is materialized
MAX_PARTS, MAX_SIZE = 20, 8192
# options that other kinds would ignore, with their defaults
APPLIES_TO: dict[str, tuple[Any, tuple[str, ...]]] = {
    "data": (None, ("masks", "all")),
    "at": ([], ("similarity", "attention", "all")),
    "head": ("all", ("attention",)),
    "foreground": (False, ("pca", "all")),
}
EXAMPLES = """\
examples:
  vitlab figure pca photos/ --weights runs/dino/seed0/best.ckpt runs/dino_entmax/seed0/best.ckpt \\
      --which teacher --labels softmax entmax --out pca.png
  vitlab figure attention dog.jpg --weights my_encoder --block 0 5 -1 --out heads.pdf
  vitlab figure similarity dog.jpg --weights my_encoder --at 210,140 400,90 --out eye_and_ear.png
  vitlab figure masks street.jpg --weights my_encoder --data VOC2012 --data.root /data/VOCdevkit \\
      --out masks.png
"""


@dataclass(frozen=True, kw_only=True)
class FigureOptions(WeightsOptions):
    """Draw photographs as encoders represent them, models side by side.

    pca         first three principal components of the patch features as red, green, blue
    attention   of [CLS], or with --at of a patch: each head, and their mean
    similarity  cosine of all patches with the patch at --at
    parts       k-means of the patch features: the same parts in all photographs and models
    masks       classes that a linear map predicts, fitted to the dataset --data
    all         one column for each of these (masks only with --data)

    Photographs keep their aspect up to the nearest multiple of the patch; nothing is cut off or
    padded. They may have any size, and different ones. Transparency is left out.

    Args:
        kind: of the figure, see above
        images: photographs, or folders of them, 24 in all at most
        out: file to write, .png, .svg or .pdf
        size: pixels of the long edge, to the nearest multiple of the patch; native keeps each
            photograph's own
        block: 0 the first, -1 the last, several, or all
        head: of attention, a number from 0, mean, or all
        at: places X,Y in the photograph's own pixels, from the upper left; one for all photographs,
            one for each, or several of one photograph; by default the center, of attention [CLS]
        basis: of pca with several models: own components turned to the first's, one basis for
            all (equal width), or each its own
        foreground: pca of what the first component separates
        parts: number of parts, 2 to 20
        data: dataset with masks to fit a linear map to; recognized where only --data.root is given
        masks_images: its training images, 0 for all
    """

    kind: Literal["pca", "attention", "similarity", "parts", "masks", "all"] = field(
        metadata=POSITIONAL
    )
    images: list[Path] = field(metadata=POSITIONAL)
    out: Path
    size: int | Literal["native"] = 448
    block: list[str] = field(default_factory=lambda: ["-1"])
    head: str = "all"
    at: list[str] = field(default_factory=list)
    basis: Basis = "aligned"
    foreground: bool = False
    parts: int = 6
    data: VisionDataModule | None = field(default=None, metadata=DATASET)
    masks_images: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.size != 0 and 0 <= self.long_edge <= MAX_SIZE
        head = self.head in ("all", "mean") or self.head.isdecimal()
        for option, right, allowed in (
            ("out", self.out.suffix.lower() in ENDINGS, f"a file ending in {', '.join(ENDINGS)}"),
            ("out", self.overwrite or not self.out.exists(), "a new file, or --overwrite"),
            ("parts", 2 <= self.parts <= MAX_PARTS, f"2 to {MAX_PARTS}"),
            ("masks_images", self.masks_images >= 0, "0 or more; 0 is all of them"),
            ("size", size, f"1 to {MAX_SIZE}, or native"),
            ("head", head, "a number from 0, mean or all"),
            ("data", self.data is not None or self.kind != "masks", "--data.root, to learn masks"),
            ("block", self.data is None or self.block == ["-1"], "none: masks are of the last"),
        ):
            if not right:
                name, value = f"--{option.replace('_', '-')}", getattr(self, option)
                raise InputError(f"{name} {value}: give {allowed}", field=name)
        for option, (default, kinds) in APPLIES_TO.items():
            if getattr(self, option) != default and self.kind not in kinds:
                raise InputError(
                    f"--{option} would be ignored by {self.kind}; leave it out, or draw "
                    f"{' or '.join(kinds)}",
                    field=f"--{option}",
                )

    @property
    def long_edge(self) -> int:
        """Pixels of the long edge; 0 for native."""
        return 0 if self.size == "native" else self.size


def run(words: Sequence[str]) -> None:
    """Draw a figure.

    Raises:
        InputError: the options contradict each other, the photographs or the models.
        OSError: a photograph that cannot be read.
    """
    options = parse(FigureOptions, words, "vitlab figure", EXAMPLES)
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
    console = Console()
    for patch in sorted({encoder.patch_size for encoder in models.values()}):
        for line in dict.fromkeys(each.summary(options.long_edge, patch) for each in photographs):
            console.print(line, soft_wrap=True, highlight=False)
    for encoder in models.values():
        encoder.to(inference.device)
    queries: list[Place | None] | None = None
    if options.kind in ("attention", "all"):
        queries = places if options.kind == "attention" else [None] * len(places)
    features = figure.extract_features(
        *(models, photographs, options.long_edge, inference, blocks, queries),
        track=lambda pairs: track(pairs, "encoding"),
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
    console.print(f"figure  {options.out}", soft_wrap=True)


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
    depths = sorted({depth_of(encoder) for encoder in models.values()})
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
    for encoder in track(models.values(), "fitting to masks", total=len(models)):
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
