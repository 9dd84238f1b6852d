"""Image and mask files to arrays. A damaged file is an error, never a gray picture."""

import io
import struct
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vitlab.data.errors import DataError

JPEG_START = b"\xff\xd8\xff"
PNG_START, PNG_END = b"\x89PNG", b"IEND\xaeB\x60\x82"
TIFF_STARTS = (b"II*\0", b"MM\0*")
MATLAB = b"MATLAB 5.0"  # how the masks of the Semantic Boundaries Dataset begin
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # PIL refuses more than this
ORIENTATION = 0x0112  # tag of Exif
# of a file that is damaged, no image, or too large
PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class UnreadableImage(OSError):  # noqa: N818, says what is there, not what was done
    """A file that is not a whole image.

    Attributes:
        path: the file.
        reason: what the decoder said about it.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"cannot read {path}: {reason}; replace or remove the file")
        self.path = str(path)
        self.reason = reason


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """The image file as `decode_image` has it upright, of which it raises the errors."""
    return decode_image(_read(path), str(path), upright=True)


def read_mask(path: str | Path) -> UInt8[np.ndarray, "height width"]:
    """The mask file as `decode_mask` has it, of which it raises the errors."""
    return decode_mask(_read(path), str(path))


def decode_image(
    data: bytes, path: str, min_size: tuple[int, int] = (0, 0), upright: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Any image file as 8-bit RGB, whatever its name or mode says.

    Of 16 bits the upper 8 are taken. JPEG takes TurboJPEG, whose pixels are PIL's to the bit.
    Unlike PIL it reports damage in the middle of a file where the entropy code breaks; damage that
    leaves a valid code of the right length shows as wrong colors and no decoder can tell. Whole PNG
    files take OpenCV, everything else PIL.

    Args:
        data: content of the file.
        path: its name, for messages.
        min_size: (height, width) in pixels that suffices: a JPEG that is larger is decoded at a
            half, a quarter or an eighth of its size, whichever is the smallest that is at least
            this large both ways. (0, 0) is the full size.
        upright: whether the picture is turned as its orientation flag (Exif) says. Datasets take
            the stored pixels, as PIL, torchvision, timm and DINO's code do.

    Raises:
        UnreadableImage: if the file is empty, cut, damaged, no image, or of more than 16 bits.
    """
    if data.startswith(JPEG_START):
        return _jpeg(data, path, min_size, upright)
    # the header of a PNG begins with its width and height
    width, height = struct.unpack_from(">II", data, 16) if len(data) >= 24 else (0, 0)
    whole = data.startswith(PNG_START) and data.endswith(PNG_END)
    if whole and width * height <= MOST_PIXELS and not upright:
        image = _opencv(data)
        if image is not None:
            return image
    return _other(data, path, upright)


def decode_mask(data: bytes, path: str) -> UInt8[np.ndarray, "height width"]:
    """A mask file as one class index per pixel; a palette gives colors to viewers only.

    Args:
        data: content of an image of indices, or of a MATLAB file of the Semantic Boundaries
            Dataset.
        path: its name, for messages.

    Raises:
        UnreadableImage: if the file is empty, cut, damaged or no image.
        DataError: if the file holds colors, or more than 8 bits, instead of indices.
    """
    if data.startswith(MATLAB):
        return _boundaries(data, path)
    image = load_with_pil(data, path)
    if image.mode[0] == "I" and (values := np.array(image)).min() >= 0 and values.max() < 256:
        return values.astype(np.uint8)
    if image.mode not in ("L", "P", "1"):
        remedy = "use the original mask files, not their colored version"
        if image.mode[0] in "IF":
            remedy = f"its values go up to {np.array(image).max()}; write them in 8 bits"
        raise DataError(
            f"mask {path} is an image of mode {image.mode}; a mask holds one class index per pixel "
            f"in 8 bits (mode L or P); {remedy}"
        )
    return np.array(image).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Orientation flag (Exif) of an opened file, 1 (upright) to 8, without decoding it."""
    try:
        # PIL decodes a PNG to see whether the flag follows its pixels
        flag: Any = Image.Image.getexif(image).get(ORIENTATION)
    except Exception:  # broken metadata do not make the picture worse
        return 1
    return flag if flag in range(1, 9) else 1


def load_with_pil(data: bytes, path: str) -> Image.Image:
    """Decode with PIL, which refuses what is cut.

    Raises:
        UnreadableImage: if the file is empty, cut, damaged or no image.
    """
    if not data:
        raise UnreadableImage(path, "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # the checksums of a PNG, which loading passes over
        image = Image.open(io.BytesIO(data))
        image.load()
    except PIL_ERRORS as error:
        reason = str(error).split(" <_io")[0]  # the bytes have no name
        raise UnreadableImage(path, reason) from error
    return image


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from error


def _opencv(data: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """The stored pixels by OpenCV, which takes the upper 8 of 16 bits."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _jpeg(
    data: bytes, path: str, min_size: tuple[int, int], upright: bool
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode with TurboJPEG, which warns of damage."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        # stray bytes between headers, rare samplings of color: PIL can
        return _other(data, path, upright)
    if height * width > MOST_PIXELS:
        return _other(data, path, upright)  # refuses it before it takes all memory
    orientation = 1
    if upright:
        with warnings.catch_warnings(), suppress(*PIL_ERRORS):
            warnings.simplefilter("ignore")  # of broken metadata
            orientation = orientation_of(Image.open(io.BytesIO(data)))
    wanted = min_size[::-1] if orientation > 4 else min_size
    size = _reduced(height, width, *wanted) if any(min_size) else (0, 0)
    scaled = {"min_height": size[0], "min_width": size[1], "min_factor": 2}
    try:
        image = simplejpeg.decode_jpeg(data, **scaled)
    except ValueError as error:
        # padding at the end of the code: the picture was complete before it. The decoder tells its
        # first complaint, and the end is the last thing it sees, so there was no other
        if not str(error).endswith("extraneous bytes before marker 0xd9"):
            raise UnreadableImage(path, str(error)) from error
        image = simplejpeg.decode_jpeg(data, **scaled, strict=False)
    if orientation > 4:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _reduced(height: int, width: int, least_height: int, least_width: int) -> tuple[int, int]:
    """Height and width after the strongest reduction that leaves at least so much."""
    for divisor in (8, 4, 2):  # other fractions exist, but take longer than the full size
        rows, columns = -(-height // divisor), -(-width // divisor)
        if rows >= least_height and columns >= least_width:
            return rows, columns
    return 0, 0


def _other(data: bytes, path: str, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Decode whatever PIL knows."""
    try:
        image = load_with_pil(data, path)
    except UnreadableImage as error:
        # PIL knows no TIFF of 16 bits and three colors
        unknown = data.startswith(TIFF_STARTS) and error.reason.startswith("cannot identify")
        color = _opencv(data) if unknown else None
        if color is None:
            raise
        return color
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # PIL would clip at 255 instead of scaling
        gray = np.array(image)
        low, high = gray.min(), gray.max()
        if gray.dtype.kind == "f" or low < 0 or high > 65535:
            reason = f"its values, {low:.6g} to {high:.6g}, are not 8 or 16 bits without sign"
            raise UnreadableImage(path, reason)
        return np.repeat((gray >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _boundaries(data: bytes, path: str) -> UInt8[np.ndarray, "height width"]:
    """The class mask in a MATLAB file of the Semantic Boundaries Dataset."""
    try:
        content = scipy.io.loadmat(io.BytesIO(data))
    except Exception as error:  # the parser trips over damage in many ways
        raise UnreadableImage(path, f"broken MATLAB file ({error})") from error
    try:
        mask = content["GTcls"]["Segmentation"][0, 0]
    except (KeyError, IndexError, ValueError):
        mask = None
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            f"mask {path} is a MATLAB file without a GTcls.Segmentation of one class index per "
            "pixel in 8 bits; class masks of the Semantic Boundaries Dataset are the files in its "
            "folder cls"
        )
    return mask
