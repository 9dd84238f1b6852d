"""PASCAL VOC masks as class indices: from colored masks, and from SBD's MATLAB files (trainaug)."""

import io
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.progress import track

from vitlab.atomic_io import write_bytes
from vitlab.data.datasets.voc import EXTRA, LISTS, VOC2012, palette
from vitlab.data.decode import UnreadableImage, decode_mask
from vitlab.data.errors import DataError

MASKS = "SegmentationClass"
COLORED = "SegmentationClassRGB"  # the colored masks, once their indices have taken their place
NO_CLASS = 254  # of a color outside the palette


def voc_masks(root: Path) -> None:
    """Turn colored masks of VOC 2012 into class indices, and masks of SBD into PNG files.

    The colored masks are kept in SegmentationClassRGB. SBD's become SegmentationClassAug, with a
    list trainaug.txt; training reads SBD's MATLAB files as well, only slower. Existing masks and
    lists stay, and an interrupted call is completed by the next one.

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
    print(f"{folder / MASKS}: {colored} masks converted from colors to indices")
    if VOC2012(str(folder)).sbd is None:
        print(f"no SBD (benchmark_RELEASE) in, beside or above {folder}: no trainaug masks written")
    else:
        print(f"{folder / EXTRA}: {write_trainaug(folder)} masks written")


def index_colored_masks(folder: Path) -> int:
    """Replace masks that hold VOC's colors by masks of class indices.

    All masks are written to a hidden folder first, which then takes the place of the old one.

    Returns:
        Number of converted masks in VOC's folder; those that hold indices already are copied.

    Raises:
        DataError: a mask is damaged or has a color of no class, or SegmentationClassRGB exists.
    """
    masks, colored, draft = folder / MASKS, folder / COLORED, folder / f".{MASKS}"
    if colored.exists() and draft.exists() and not masks.exists():
        draft.rename(masks)  # interrupted between the two renames at the end
        return 0
    files = sorted(masks.glob("*.png"))
    wanted = {path for path in files if _is_colored(path)}
    if not wanted:
        return 0
    if colored.exists():
        raise DataError(
            f"{len(wanted)} masks in {masks} hold colors, and {colored}, where they would be kept, "
            "exists; move it away",
            field=COLORED,
        )
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    table = np.full(1 << 24, NO_CLASS, np.uint8)  # class of each 24-bit color
    values = [*range(21), 255]
    table[_color_number(palette()[values])] = values
    for path in track(files, "masks from colors to indices", transient=True):
        if path in wanted:
            (draft / path.name).write_bytes(_png(_indices(path, table)))
        else:
            shutil.copy2(path, draft)
    masks.rename(colored)
    draft.rename(masks)
    return len(wanted)


def write_trainaug(folder: Path) -> int:
    """Write the masks of the split trainaug as PNG files of class indices, and its list.

    Returns:
        Number of written masks; SBD lies in, beside or above VOC's folder.

    Raises:
        DataError: a mask of SBD is damaged or holds a value that is no class.
    """
    samples = VOC2012(str(folder)).samples("trainaug")
    names = [Path(samples.image(index)).stem for index in range(len(samples))]
    written = 0
    for index, name in enumerate(track(names, "masks of trainaug", transient=True)):
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
