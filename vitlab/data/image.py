"""Image and mask files to arrays. A damaged file is an error, never a gray picture."""

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vitlab.data.samples import DataError

# OpenCV decodes a cut file without complaint; these endings say that the file is whole
ENDINGS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}


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
    """Any image file as upright 8-bit RGB, whatever its name, mode or orientation flag says.

    JPEG and PNG files that end as they should take OpenCV's fast decoder; all others (cut files,
    bytes after the end, further formats) take PIL's strict one.

    Raises:
        UnreadableImage: if the file is missing, empty, cut or no image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or "no such file") from error
    if not data:
        raise UnreadableImage(path, "the file is empty")
    if any(data.startswith(start) and data.endswith(end) for start, end in ENDINGS.items()):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return _strict(path, data)


def read_mask(path: str | Path) -> UInt8[np.ndarray, "height width"]:
    """A mask file as one class index per pixel; a palette gives colors to viewers only.

    Raises:
        UnreadableImage: if the file is missing, empty, cut or no image.
        DataError: if the file holds colors, or more than 8 bits, instead of indices.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, mask = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # PIL reports broken PNG as SyntaxError
        raise UnreadableImage(path, str(error)) from error
    if mode not in ("L", "P", "1"):
        raise DataError(
            f"mask {path} is an image of mode {mode}; a mask holds one class index per pixel in "
            "8 bits (mode L or P); use the original mask files, not their colored version"
        )
    return mask.astype(np.uint8)


def _strict(path: str | Path, data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode with PIL, which refuses what is cut."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(path, str(error)) from error
    if upright.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling
        gray = (np.array(upright).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.array(upright.convert("RGB"))
