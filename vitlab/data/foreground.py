"""Masks of the object in an image, beside class folders: for objectives that ask where it is.

An image `train/<class>/<name>.jpg` may have a mask `masks/train/<class>/<name>.png`, of the same
height and width. Whatever is not 0 is the object: 1, 255, the index of a class or a color.
"""

import numpy as np
from jaxtyping import Bool, Shaped

from vitlab.data.decode import load_with_pil
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, paths

FOLDER = "masks"
MODES = ("1", "L", "P", "RGB", "I", "I;16", "I;16B")


def mask_name(image: str) -> str:
    """Path of the mask that an image would have."""
    return f"{FOLDER}/{image.rpartition('.')[0]}.png"


def foreground_masks(samples: Samples) -> Shaped[np.ndarray, " n"]:
    """Path of the mask of each image, as bytes; empty where it has none."""
    names = [mask_name(samples.image(index)) for index in range(len(samples))]
    missing = set(samples.files.absent(names))
    if len(missing) == len(names):
        raise DataError(
            f"none of the {len(names)} training images has a mask: there is no "
            f"{samples.files.where(names[0])}, nor any other; put masks there, or let the "
            "foreground be derived with model.objective.tokens.foreground derived"
        )
    return paths(["" if name in missing else name for name in names])


def decode_foreground(data: bytes, path: str) -> Bool[np.ndarray, "height width"]:
    """True where a mask file, of numbers or colors, is not 0 in some channel.

    Raises:
        UnreadableImage: if the file is empty, cut, damaged or no image.
        DataError: if the image has an alpha channel, where 0 may mean anything.
    """
    image = load_with_pil(data, path)
    if image.mode not in MODES:
        raise DataError(
            f"mask {path} is an image of mode {image.mode}; a mask of the object is one of "
            f"{', '.join(MODES)}, with 0 for what is not the object; write it as such"
        )
    shown = np.asarray(image) != 0
    return np.any(shown, axis=-1) if shown.ndim == 3 else shown
