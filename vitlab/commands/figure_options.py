"""Options of `vitlab figure`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitlab.commands.parser import DATASET, POSITIONAL
from vitlab.commands.weights_option import WeightsOptions
from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.probes.layer_selection import LayerSelection, check_layers
from vitlab.visualization import figure
from vitlab.visualization.grid import ENDINGS
from vitlab.visualization.pca import Basis
from vitlab.visualization.photographs import Photograph

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
  vitlab figure attention dog.jpg --weights my_encoder --head mean --block all --out depth.svg
  vitlab figure similarity dog.jpg --weights my_encoder --at 210,140 400,90 --out eye_and_ear.png
  vitlab figure parts a.jpg b.jpg --weights my_encoder --parts 8 --size 672 --out parts.png
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
        size = 0 < (self.long_edge or 1) <= MAX_SIZE and self.size != 0
        head = self.head in ("all", "mean") or self.head.isdecimal()
        out, parts = self.out.suffix.lower() in ENDINGS, 2 <= self.parts <= MAX_PARTS
        for option, value, right, allowed in (
            ("--out", self.out, out, f"a file that ends with {', '.join(ENDINGS)}"),
            ("--parts", self.parts, parts, f"2 to {MAX_PARTS}"),
            (
                "--masks-images",
                self.masks_images,
                self.masks_images >= 0,
                "0 or more; 0 is all of them",
            ),
            ("--size", self.size, size, f"1 to {MAX_SIZE} pixels, or native"),
            ("--head", self.head, head, "a number from 0, mean, or all"),
        ):
            if not right:
                raise InputError(f"{option} {value}: give {allowed}", field=option)
        if self.out.exists() and not self.overwrite:
            raise InputError(
                f"{self.out} exists; name another file, or give --overwrite", field="--out"
            )
        if self.kind == "masks" and self.data is None:
            raise InputError("masks need a dataset to learn from; give --data.root", field="--data")
        for option, (default, kinds) in APPLIES_TO.items():
            if getattr(self, option) != default and self.kind not in kinds:
                raise InputError(
                    f"--{option} would be ignored by {self.kind}; leave it out, or draw "
                    f"{' or '.join(kinds)}",
                    field=f"--{option}",
                )
        if self.data is not None and self.block != ["-1"]:
            raise InputError("masks are of the last block; leave out --block", field="--block")

    @property
    def long_edge(self) -> int:
        """Pixels of the long edge; 0 for native."""
        return 0 if self.size == "native" else self.size


def places_of(options: FigureOptions, photographs: list[Photograph]) -> list[figure.Place | None]:
    """Return a place for each photograph, or several of one; None is [CLS], of attention."""
    count = len(photographs)
    if not options.at:
        if options.kind == "attention":
            return [None] * count
        return [(photo.size[1] // 2, photo.size[0] // 2) for photo in photographs]
    places: list[figure.Place] = []
    for word in options.at:
        x, comma, y = word.partition(",")
        if not (comma and x.isdecimal() and y.isdecimal()):
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


def blocks_of(options: FigureOptions, models: dict[str, Encoder]) -> list[int]:
    """Return the blocks that are drawn, which every model has."""
    if options.block == ["all"]:
        depths = {len(getattr(encoder, "blocks", ())) for encoder in models.values()}
        if len(depths) > 1:
            raise InputError(
                "--block all needs models of one depth; these have "
                f"{', '.join(map(str, sorted(depths)))} blocks; name blocks, or draw each "
                "model by itself",
                field="--block",
            )
        return list(range(depths.pop()))
    try:
        blocks = [int(word) for word in options.block]
    except ValueError as error:
        raise InputError(
            f"--block {' '.join(options.block)}: give numbers, 0 for the first and -1 for the "
            "last, or all",
            field="--block",
        ) from error
    for encoder in models.values():
        check_layers(encoder, [LayerSelection(tuple(blocks))])
    return blocks
