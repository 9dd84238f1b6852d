"""`vitlab figure`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitlab.commands.parser import DATASET, POSITIONAL, parse
from vitlab.commands.weights_option import WeightsOptions
from vitlab.errors import InputError
from vitlab.option_types import Basis

if TYPE_CHECKING:
    from vitlab.data import VisionDataModule

ENDINGS = (".png", ".svg", ".pdf")
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
    data: "VisionDataModule | None" = field(default=None, metadata=DATASET)
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
    from vitlab.commands.run_figure import draw

    draw(options)
