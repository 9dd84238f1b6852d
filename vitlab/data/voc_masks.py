"""PASCAL VOC masks as class indices: from colored masks, and from SBD's MATLAB files (trainaug)."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitlab.atomic_io import write_bytes
from vitlab.data.datasets.voc import EXTRA, LISTS, VOC2012, palette
from vitlab.data.decode import UnreadableImage, decode_mask
from vitlab.data.errors import DataError
from vitlab.progress import track
from vitlab.terminal import say

MASKS = "SegmentationClass"
COLORED = "SegmentationClassRGB"  # the colored masks, once their indices have taken their place
NO_CLASS = 254  # of a color outside the palette


def voc_masks(root: Path) -> None:
    """Turn colored masks of VOC 2012 into class indices, and masks of SBD into PNG files.

    The work of `vitlab data voc-masks`, whose help has the rules.

    Args:
        root: folder of the extracted VOC 2012 (or VOCdevkit, or the folder above it), with SBD's
            benchmark_RELEASE in, beside or above it.

    Raises:
        DataError: there is no extracted VOC 2012, or a mask is damaged or holds no class.
        OSError: a file cannot be written.
    """
    needed = ("JPEGImages", "ImageSets/Segmentation")
    places = [root / place for place in VOC2012.layout.nested]
    folder = next((p for p in places if all((p / name).is_dir() for name in needed)), None)
    if folder is None:
        raise DataError(
            f"{root} holds no extracted VOC 2012; extract it: tar -xf VOCtrainval_11-May-2012.tar",
            field="root",
        )
    colored = index_colored_masks(folder)
    say(f"{folder / MASKS}: {colored} masks converted from colors to indices")
    if VOC2012(str(folder)).sbd is None:
        say(f"no SBD (benchmark_RELEASE) in, beside or above {folder}: no trainaug masks written")
    else:
        say(f"{folder / EXTRA}: {write_trainaug(folder)} masks written")


def index_colored_masks(folder: Path) -> int:
    """Replace masks in VOC's folder that hold its colors by masks of class indices.

    Each colored one is kept before its indices take its place; none is replaced where one has a
    color of no class.

    Returns:
        Number of converted masks.
    """
    table = np.full(1 << 24, NO_CLASS, np.uint8)  # class of each 24-bit color
    values = [*range(21), 255]
    table[_color_number(palette()[values])] = values
    files = sorted((folder / MASKS).glob("*.png"))
    tracked = track(files, "reading masks")
    converted = {path: _png(_indices(path, table)) for path in tracked if _is_colored(path)}
    for path, indices in converted.items():
        content, kept = path.read_bytes(), folder / COLORED / path.name
        if kept.exists() and kept.read_bytes() != content:
            raise DataError(
                f"{path} holds colors, and {kept}, where it would be kept, is another mask; move "
                "it away",
                field=COLORED,
            )
        write_bytes(kept, content)
        write_bytes(path, indices)
    return len(converted)


def write_trainaug(folder: Path) -> int:
    """Write the masks of the split trainaug as PNG files of class indices, and its list.

    Returns:
        Number of written masks; SBD lies in, beside or above VOC's folder.
    """
    samples = VOC2012(str(folder)).samples("trainaug")
    names = [Path(samples.image(index)).stem for index in range(len(samples))]
    written = 0
    for index, name in enumerate(track(names, "masks of trainaug")):
        target, mask = folder / EXTRA / f"{name}.png", samples.mask(index)
        if not target.exists():
            content, where = samples.files.read(mask), samples.files.where(mask)
            write_bytes(target, _converted(content, where) if mask.endswith("mat") else content)
            written += 1
    lists = [folder / f"ImageSets/Segmentation/{name}.txt" for name in LISTS]
    if not any(file.exists() for file in lists):
        write_bytes(lists[0], "".join(f"{name}\n" for name in names).encode())
    return written


def _is_colored(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode in ("RGB", "RGBA")
    except OSError:
        return False  # damage is reported by `vitlab data check`


def _converted(content: bytes, where: str) -> bytes:
    """A mask of SBD as a PNG file."""
    try:
        mask = decode_mask(content, where)
        wrong = np.unique(mask[(mask > 20) & (mask != 255)])[:5].tolist()
        if wrong:
            raise UnreadableImage(where, f"it holds {wrong}, where 0-20 and 255 are allowed")
    except UnreadableImage as error:
        raise DataError(
            f"{error}; extract SBD's benchmark.tgz again", field="benchmark.tgz"
        ) from error
    return _png(mask)


def _color_number(colors: UInt8[np.ndarray, "*pixels channels"]) -> np.ndarray:
    red, green, blue = (colors[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _indices(path: Path, table: UInt8[np.ndarray, "16777216"]) -> UInt8[np.ndarray, "height width"]:
    """Class of each pixel of a colored mask."""
    try:
        with Image.open(path) as image:
            colors = np.array(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error}; restore the original", field=path.name
        ) from error
    mask = table[_color_number(colors)]
    wrong = np.argwhere((mask == NO_CLASS) | (colors[..., 3] != 255)).tolist()
    if wrong:
        row, column = wrong[0]
        raise DataError(
            f"mask {path} has the color {colors[row, column].tolist()} (red, green, blue, opacity) "
            f"at row {row}, column {column}, which is no class of VOC; use the original masks, in "
            "VOCtrainval_11-May-2012.tar",
            field=path.name,
        )
    return mask


def _png(mask: UInt8[np.ndarray, "height width"]) -> bytes:
    """PNG file of class indices with VOC's palette."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
