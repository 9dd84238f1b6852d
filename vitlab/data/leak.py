"""Images that are learned from and scored on."""

import os

import numpy as np

from vitlab.data.errors import DataError
from vitlab.data.samples import Samples
from vitlab.data.storage import few


def refuse_common(train: Samples, val: Samples, names: tuple[str, str]) -> None:
    """Refuse to learn from images that are scored, as VOC's trainval against val.

    Args:
        train: learned from.
        val: scored on.
        names: of both splits.

    Raises:
        DataError: which images they share.
    """
    common = [os.fsdecode(name) for name in np.intersect1d(train.images, val.images)]
    # archives may hold another image of that name for each split
    shared = [name for name in common if train.files.where(name) == val.files.where(name)]
    if shared:
        raise DataError(
            f"{len(shared)} images are in both train: {names[0]} and val: {names[1]} "
            f"({few(shared)}); scores on them would mean "
            "nothing: choose splits without common images"
        )
