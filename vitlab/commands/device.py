"""The option --device."""

import torch

from vitlab.errors import InputError


def choose_device(asked: str) -> torch.device:
    """Return the device of --device: cpu, cuda, or auto for cuda where there is one.

    Raises:
        InputError: a GPU is asked for where there is none.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda, but torch sees no GPU here; use --device cpu", field="--device"
        )
    return torch.device(asked)
