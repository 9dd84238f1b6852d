"""What one image becomes. The only folder that knows the augmentation library."""

from vitlab.data.views.multicrop import MultiCrop
from vitlab.data.views.pixels import MEAN, STD, normalize, resize, stack_of
from vitlab.data.views.single import CenterCrop, Whole
from vitlab.data.views.views import Pixels, Seed, Stack, Views

__all__ = [
    "MEAN",
    "STD",
    "CenterCrop",
    "MultiCrop",
    "Pixels",
    "Seed",
    "Stack",
    "Views",
    "Whole",
    "normalize",
    "resize",
    "stack_of",
]
