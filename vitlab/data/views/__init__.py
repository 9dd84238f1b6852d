"""What one image becomes. Only its file of colors knows the augmentation library."""

from vitlab.data.views.augmented import AugmentedCrop
from vitlab.data.views.multicrop import MultiCrop
from vitlab.data.views.pixels import MEAN, STD, normalize, resize, stack_of
from vitlab.data.views.segmentation import (
    ImageAndMask,
    SegmentationCrop,
    SegmentationSquare,
    SegmentationViews,
    SegmentationWhole,
    nearest,
)
from vitlab.data.views.shifted import ShiftedCrop
from vitlab.data.views.single import CenterCrop, SingleCrop
from vitlab.data.views.sliding import slide, windows
from vitlab.data.views.views import Pixels, Seed, Shown, Stack, Views

__all__ = [
    "MEAN",
    "STD",
    "AugmentedCrop",
    "CenterCrop",
    "ImageAndMask",
    "MultiCrop",
    "Pixels",
    "Seed",
    "SegmentationCrop",
    "SegmentationSquare",
    "SegmentationViews",
    "SegmentationWhole",
    "ShiftedCrop",
    "Shown",
    "SingleCrop",
    "Stack",
    "Views",
    "nearest",
    "normalize",
    "resize",
    "slide",
    "stack_of",
    "windows",
]
