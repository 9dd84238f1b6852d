"""Values of pixels: resampling as PIL does it, and normalization."""

from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlab.data.transforms.transform import Pixels

# of ImageNet's RGB values in [0, 1]; the constants that all published weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: UInt8[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
    """(value / 255 - MEAN) / STD for each channel, on the device where the images are."""
    mean, scale = _constants(images.device)
    # first the layout, then the type: on a CPU that takes half the time of both at once
    values = images.contiguous().to(torch.float32)
    return values.sub_(mean).mul_(scale)


@cache
def _constants(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """255 MEAN and 1 / (255 STD) where they are needed: copying them would wait for the device."""
    mean = 255 * torch.tensor(MEAN).view(3, 1, 1)
    scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
    return mean.to(device), scale.to(device)


def stack_of(crops: UInt8[np.ndarray, "_ h w 3"]) -> UInt8[Tensor, "_ 3 h w"]:
    """The crops as a tensor with channels first, which shares their memory."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2)


def resize(
    image: Pixels, rows: int, columns: int, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> UInt8[np.ndarray, "rows columns 3"]:
    """With antialiasing, as PIL does it; bicubic is what published evaluations expect."""
    # a batch of one with channels last, of which torch needs no other layout; and views are made
    # by numpy, since torch takes a microsecond for each
    batch = np.ascontiguousarray(image).reshape(1, *image.shape).transpose(0, 3, 1, 2)
    resized = F.interpolate(torch.from_numpy(batch), (rows, columns), mode=mode, antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)
