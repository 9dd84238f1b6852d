"""Remedies for VOC 2012: masks that hold colors become indices, and SBD's masks become files."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.progress import Progress

from vitlab.data.errors import DataError
from vitlab.data.image import UnreadableImage, decode_mask
from vitlab.data.layout import few
from vitlab.data.preparing.workshop import Workshop, tidy
from vitlab.data.voc import EXTRA, LISTS, VOC2012, palette

MASKS = "SegmentationClass"
COLORED = "SegmentationClassRGB"  # where masks that hold colors are kept
LIST = f"ImageSets/Segmentation/{LISTS[0]}.txt"
MASK_SIZE = 12_000  # bytes on disk, amply: those of VOC that we have looked at have 8,208 at most
UNKNOWN = 254  # of a color that stands for no class


@dataclass(frozen=True)
class Colored:
    """Masks that hold VOC's colors instead of indices.

    Attributes:
        source: the folder they are in.
        target: the folder for masks of indices; the same one if the colored ones make room.
        names: of the files that hold colors.
        kept: of those that hold indices.
        done: whether the new masks were there, in another folder, when this was found.
    """

    source: Path
    target: Path
    names: tuple[str, ...]
    kept: tuple[str, ...]
    done: bool = False

    @property
    def stay(self) -> Path:
        """Where the colored ones are afterwards."""
        return self.source.with_name(COLORED) if self.source == self.target else self.source

    @property
    def size(self) -> int:
        """Bytes on disk that the new masks take at most."""
        return MASK_SIZE * len(self.names) + sum(
            (self.source / name).stat().st_size for name in self.kept
        )


@dataclass(frozen=True)
class Boundaries:
    """Masks of SBD that are not yet images of indices.

    Attributes:
        data: VOC 2012, with SBD within reach.
        target: the folder of VOC 2012 that the masks go to.
        names: of all images of trainaug, in order.
        masks: the file in `data` for each mask to make, by the name of its image.
        listed: whether there is a list of trainaug already.
    """

    data: VOC2012
    target: Path
    names: tuple[str, ...]
    masks: dict[str, str]
    listed: bool

    @property
    def size(self) -> int:
        """Bytes on disk that they take, amply."""
        return MASK_SIZE * len(self.masks)


def voc_folder(root: Path) -> Path | None:
    """The folder of an extracted VOC 2012 at or below `root`."""
    marks = ("JPEGImages", MASKS, "ImageSets/Segmentation")
    for place in VOC2012.layout.nested:
        if all((root / place / mark).is_dir() for mark in marks):
            return root / place
    return None


def find_colored(source: Path, target: Path) -> Colored | None:
    """Masks in the folder of VOC 2012 `source` that hold colors, by their headers.

    Args:
        source: the folder of VOC 2012.
        target: the one to hold masks of indices.

    Raises:
        DataError: if the folder that the colored masks would move to is taken.
    """
    names: list[str] = []
    kept: list[str] = []
    for path in sorted((source / MASKS).glob("*.png")):
        try:
            with Image.open(path) as image:
                (names if image.mode in ("RGB", "RGBA") else kept).append(path.name)
        except OSError:
            kept.append(path.name)  # damage is for `data check` to report
    if not names:
        return None
    if source == target and (source / COLORED).exists():
        raise DataError(
            f"{len(names)} masks in {source / MASKS} hold colors ({few(names)}), and {COLORED}, "
            "where they would be kept, is taken; move it away"
        )
    done = source != target and (target / MASKS).exists()
    return Colored(source / MASKS, target / MASKS, tuple(names), tuple(kept), done)


def mend_colored(work: Colored, progress: Progress) -> None:
    """Make masks of indices, in the place of the colored ones, which are kept beside them.

    Raises:
        DataError: if a mask is damaged, or holds a color that stands for no class.
    """
    shop = _colored_shop(work.target.parent)
    task = progress.add_task("masks from colors to indices", total=len(work.names))
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    numbers = _number(palette())
    for value in (*range(21), 255):
        table[numbers[value]] = value
    for name in (*work.names, *work.kept):
        source, made = work.source / name, f"{MASKS}/{name}"
        if not shop.has_newer(made, source):
            content = source.read_bytes()
            if name in work.names:
                content = _png(_indices(source, content, table))
            shop.write(made, [content])
        progress.advance(task)
    if work.source == work.target:
        os.rename(work.source, work.source.with_name(COLORED))
    shop.deliver()
    progress.remove_task(task)


def finish_exchange(folder: Path) -> bool:
    """Put new masks in their place if the colored ones have left it just before a kill."""
    shop = _colored_shop(folder)
    if not exchange_stopped(folder):
        return False
    shop.deliver()
    tidy(folder)
    return True


def exchange_stopped(folder: Path) -> bool:
    """Whether colored masks have left their folder and the new ones are not in it yet."""
    made = {path.name for path in (_colored_shop(folder).bench / MASKS).glob("*.png")}
    left = {path.name for path in (folder / COLORED).glob("*.png")}
    # if the user has moved the folder, the new masks may not all be there
    return bool(left) and left <= made and not (folder / MASKS).exists()


def find_boundaries(folder: Path, target: Path) -> Boundaries | None:
    """Masks of SBD to make; None without SBD, or if there are all.

    Args:
        folder: of VOC 2012.
        target: the one that the masks go to.

    Raises:
        DataError: if a list or a file is missing, or images of val are in trainaug.
    """
    data = VOC2012(str(folder))
    if data.sbd is None:
        return None
    samples = data.scan("trainaug")
    made = data.files.listing(EXTRA)
    there = set(made.names) if made else set()
    names = [Path(samples.image(index)).stem for index in range(len(samples))]
    masks = {
        name: samples.mask(index) for index, name in enumerate(names) if f"{name}.png" not in there
    }
    listed = any((folder / f"ImageSets/Segmentation/{name}.txt").exists() for name in LISTS)
    return Boundaries(data, target, tuple(names), masks, listed) if masks or not listed else None


def make_boundaries(work: Boundaries, progress: Progress) -> None:
    """Make them: VOC's own masks as they are, SBD's as images of indices; then the list.

    Raises:
        DataError: if a mask of SBD is damaged, or holds something else than classes.
    """
    samples = work.data.scan("trainaug")
    shop = Workshop(work.target, "boundaries")
    task = progress.add_task(f"masks of SBD for {EXTRA}", total=len(work.masks))
    for name, mask in work.masks.items():
        made, where = f"{EXTRA}/{name}.png", samples.files.where(mask)
        if not shop.has_newer(made, Path(where)):
            content = samples.files.read(mask)
            shop.write(made, [_png(_classes(content, where)) if mask.endswith(".mat") else content])
        progress.advance(task)
    shop.deliver()  # the list comes last: where it is, the masks are
    if not work.listed:
        shop.write(LIST, ["".join(f"{name}\n" for name in work.names).encode()])
        shop.deliver()
    progress.remove_task(task)


def _colored_shop(folder: Path) -> Workshop:
    return Workshop(folder, "colored")


def _classes(content: bytes, where: str) -> UInt8[np.ndarray, "height width"]:
    try:
        mask = decode_mask(content, where)
    except UnreadableImage as error:
        raise DataError(f"{error}; extract SBD's benchmark.tgz again") from error
    strange = np.unique(mask[(mask > 20) & (mask != 255)])
    if len(strange):
        raise DataError(
            f"mask {where} holds {strange[:5].tolist()}; allowed are 0-20, 255; extract SBD's "
            "benchmark.tgz again"
        )
    return mask


def _indices(
    path: Path, content: bytes, table: UInt8[np.ndarray, "16777216"]
) -> UInt8[np.ndarray, "height width"]:
    """Index of each pixel by its color."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            colors = np.array(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; replace it by the original") from error
    mask = table[_number(colors)]
    wrong = np.argwhere((mask == UNKNOWN) | (colors[..., 3] != 255)).tolist()
    if wrong:
        row, column = wrong[0]
        raise DataError(
            f"mask {path} has the color {colors[row, column].tolist()} (red, green, blue, opacity) "
            f"at row {row}, column {column}, which stands for no class of VOC; allowed are the "
            "colors of its palette for 0-20 and 255, opaque; use the original masks, in "
            "VOCtrainval_11-May-2012.tar"
        )
    return mask


def _number(colors: UInt8[np.ndarray, "*pixels channels"]) -> np.ndarray:
    red, green, blue = (colors[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _png(mask: UInt8[np.ndarray, "height width"]) -> bytes:
    """A mask as an image of indices with VOC's colors for viewers."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=False)
    return content.getvalue()
