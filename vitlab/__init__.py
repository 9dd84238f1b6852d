"""vitlab: pretraining and evaluation of vision transformers for dense prediction."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitlab.encoders import Encoder

__version__ = "0.1.0"


def load(path: str | Path) -> "Encoder":
    """Read back an encoder from a folder that `vitlab export` wrote, exactly.

    Args:
        path: the folder, with `config.json` and `model.safetensors`.

    Raises:
        InputError: the folder is not of this kind, or damaged.
    """
    # torch is imported only now, so that the command's help stays immediate
    from vitlab.encoders.checkpoint_io import load

    return load(path)
