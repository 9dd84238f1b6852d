"""What one image becomes. Only its file of colors knows the augmentation library."""

from vitlab.data.views.multicrop import MultiCrop
from vitlab.data.views.pixels import MEAN, STD, normalize, resize, stack_of
from vitlab.data.views.segmentation import (
    ImageAndMask,
    SegmentationCrop,
    SegmentationSquare,
    SegmentationViews,
    SegmentationWhole,
)
from vitlab.data.views.single import CenterCrop, SingleCrop
from vitlab.data.views.sliding import slide, windows
from vitlab.data.views.views import Pixels, Seed, Stack, Views

__all__ = [
    "MEAN",
    "STD",
    "CenterCrop",
    "ImageAndMask",
    "MultiCrop",
    "Pixels",
    "Seed",
    "SegmentationCrop",
    "SegmentationSquare",
    "SegmentationViews",
    "SegmentationWhole",
    "SingleCrop",
    "Stack",
    "Views",
    "normalize",
    "resize",
    "slide",
    "stack_of",
    "windows",
]
