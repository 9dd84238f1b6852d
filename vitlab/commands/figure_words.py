"""The words of `vitlab figure`: what they ask for, and what in them cannot be."""

import argparse
from pathlib import Path

from vitlab.commands.analyze_words import UNTRAINED
from vitlab.commands.device import choose_device
from vitlab.encoders import Encoder
from vitlab.probes.layer_selection import LayerSelection, check_layers
from vitlab.visualization import figure
from vitlab.visualization.grid import ENDINGS
from vitlab.visualization.photographs import MOST, Photograph

KINDS = ("pca", "attention", "similarity", "parts", "masks", "all")
MOST_PARTS = 20
HEADS = "all"  # attention of each head, and their mean
OF_KINDS = {  # options that other kinds have no use for
    "masks": ("masks", "all"),
    "at": ("similarity", "attention", "all"),
    "head": ("attention",),
    "foreground": ("pca", "all"),
}

DESCRIPTION = """\
Draw what encoders make of your own photographs, models side by side.

  pca         first three principal components of the patch features as red, green, blue
  attention   what [CLS], or with --at a patch, attends to: each head, and their mean
  similarity  cosine of all patches with the patch at --at
  parts       k-means of the patch features: the same parts in all photographs and models
  masks       classes that a linear map predicts, fitted to the dataset --masks
  all         one column for each of these (masks only with --masks)

Photographs keep their aspect up to the nearest multiple of the patch; nothing is cut off or
padded. They may have any size, and different ones. Transparency is left out.
"""
EXAMPLES = """\
examples:
  vitlab figure pca photos/ --weights runs/dino/seed0/best.ckpt runs/dino_entmax/seed0/best.ckpt \\
      --which teacher --labels softmax entmax --out pca.png
  vitlab figure attention dog.jpg --weights my_encoder --block 0 5 -1 --out heads.pdf
  vitlab figure attention dog.jpg --weights my_encoder --head mean --block all --out depth.svg
  vitlab figure similarity dog.jpg --weights my_encoder --at 210,140 400,90 --out eye_and_ear.png
  vitlab figure parts a.jpg b.jpg --weights my_encoder --parts 8 --size 672 --out parts.png
  vitlab figure masks street.jpg --weights my_encoder --masks /data/VOCdevkit --out masks.png
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    words = argparse.ArgumentParser(
        "vitlab figure",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = words.add_argument
    add("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    add(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help=f"photographs, or folders of them, {MOST} in all at most",
    )
    _add_models(words)
    _add_drawing(words)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    add("--out", type=Path, required=True, help="file to write: .png, .svg or .pdf")
    add("--overwrite", action="store_true", help="replace the file if it is there")
    return words


def _add_models(words: argparse.ArgumentParser) -> None:
    add = words.add_argument
    each = "one for all weights, or one for each"
    add(
        "--weights",
        nargs="+",
        required=True,
        help=f"what vitlab import reads, or {UNTRAINED}CONFIG for an encoder at its start",
    )
    add("--labels", nargs="+", help="names of the models, one for each; default: from the paths")
    which = "student, teacher ... of a file with several models"
    add("--which", nargs="+", default=[""], help=f"{which}; {each}")
    add("--family", nargs="+", default=["auto"], help=f"whose weights they are; {each}")
    add(
        "--pixels",
        nargs="+",
        choices=("auto", "imagenet", "half"),
        default=["auto"],
        help=f"mean and deviation they are trained with, see vitlab evaluate --help; {each}",
    )
    add("--backbone", nargs="+", default=[""], help=f"of a run of prompts, if it moved; {each}")


def _add_drawing(words: argparse.ArgumentParser) -> None:
    add = words.add_argument
    add(
        "--size",
        default="448",
        help="pixels of the long edge, to the nearest multiple of the patch; native leaves each "
        "photograph at its own (default: 448)",
    )
    add("--block", nargs="+", default=["-1"], help="0 the first, -1 the last, or all (default: -1)")
    add("--head", default=HEADS, help="of attention: a number from 0, mean, or all (default)")
    add(
        "--at",
        nargs="+",
        metavar="X,Y",
        help="a place in the photograph's own pixels, from the upper left: one for all "
        "photographs or each, or several of one (default: the center; of attention, [CLS])",
    )
    add(
        "--basis",
        choices=tuple(figure.SHARED),
        default="aligned",
        help="of pca with several models: own components turned to the first's, one basis for "
        "all (equal width), or each its own (default: aligned)",
    )
    add("--foreground", action="store_true", help="pca of what the first component separates")
    add("--parts", type=int, default=6, help=f"number of parts, 2 to {MOST_PARTS} (default: 6)")
    add("--masks", type=Path, metavar="ROOT", help="dataset with masks to fit a linear map to")
    add("--masks-images", type=int, default=200, help="training images for it, 0 for all")


def refuse(given: argparse.Namespace) -> None:
    """Refuse what the words alone show to be wrong."""
    if given.out.suffix.lower() not in ENDINGS:
        raise ValueError(f"--out {given.out} must end with one of {', '.join(ENDINGS)}")
    if given.out.exists() and not given.overwrite:
        raise ValueError(f"{given.out} is there; name another file, or give --overwrite")
    if given.kind == "masks" and not given.masks:
        raise ValueError(
            "masks need a dataset to learn from; give --masks ROOT, such as VOC 2012's"
        )
    for option, kinds in OF_KINDS.items():
        default = HEADS if option == "head" else None
        if getattr(given, option) not in (default, False) and given.kind not in kinds:
            raise ValueError(
                f"--{option} would be ignored by {given.kind}; leave it out, or draw "
                f"{' or '.join(kinds)}"
            )
    if given.masks and given.block != ["-1"]:
        raise ValueError("--masks are of the last block; leave out --block")
    if not 2 <= given.parts <= MOST_PARTS:
        raise ValueError(f"--parts {given.parts} is not in 2 to {MOST_PARTS}")
    _refuse_lengths(given)


def _refuse_lengths(given: argparse.Namespace) -> None:
    """Refuse numbers that are none, and settle the size: 0 for native."""
    if given.masks_images < 0:
        raise ValueError(f"--masks-images {given.masks_images} is negative; 0 is all of them")
    if given.size != "native" and not (given.size.isdecimal() and 0 < int(given.size) <= 8192):
        raise ValueError(f"--size {given.size} is no length; give 1 to 8192 pixels, or native")
    given.size = 0 if given.size == "native" else int(given.size)
    if given.head not in ("all", "mean") and not given.head.isdecimal():
        raise ValueError(f"--head {given.head} is no head; give a number from 0, mean, or all")
    choose_device(given.device)
    for option in ("labels", "which", "family", "pixels", "backbone"):
        values, count = getattr(given, option), len(given.weights)
        if values and len(values) not in ({count} if option == "labels" else {1, count}):
            raise ValueError(
                f"--{option} has {len(values)} values for {count} weights; give one for each"
            )


def places_in(
    given: argparse.Namespace, photographs: list[Photograph]
) -> list[figure.Place | None]:
    """Return a place for each photograph, or several of one; None is [CLS], where that can be."""
    count = len(photographs)
    if not given.at:
        if given.kind == "attention":
            return [None] * count
        return [(photo.size[1] // 2, photo.size[0] // 2) for photo in photographs]
    places: list[figure.Place | None] = []
    for word in given.at:
        x, comma, y = word.partition(",")
        if not (comma and x.isdecimal() and y.isdecimal()):
            raise ValueError(f"--at {word} is no place; give x,y in pixels, such as 210,140")
        places.append((int(x), int(y)))
    if len(places) == 1:
        places = places * count
    if count > 1 and len(places) != count:
        raise ValueError(
            f"--at has {len(places)} places for {count} photographs; give one for each, or for all"
        )
    for photo, place in zip(photographs * (len(places) // count), places, strict=True):
        assert place is not None
        photo.patch_at(place, (1, 1))
    return places


def blocks_of(given: argparse.Namespace, models: dict[str, Encoder]) -> list[int]:
    """Return the blocks that are looked behind, which every model has."""
    if given.block == ["all"]:
        depths = {len(getattr(encoder, "blocks", ())) for encoder in models.values()}
        if len(depths) > 1:
            raise ValueError(
                "--block all needs models of one depth; these have "
                f"{', '.join(map(str, sorted(depths)))} blocks; name blocks, or draw each "
                "model by itself"
            )
        return list(range(depths.pop()))
    try:
        blocks = [int(word) for word in given.block]
    except ValueError as error:
        raise ValueError(
            f"--block {' '.join(given.block)}: give numbers, 0 for the first and -1 for the last, "
            "or all"
        ) from error
    for encoder in models.values():
        check_layers(encoder, [LayerSelection(tuple(blocks))])
    return blocks
