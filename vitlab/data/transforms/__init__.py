"""Transforms of an image, or of an image and its mask."""

from vitlab.data.transforms.area import SegmentationRandomResizedCrop
from vitlab.data.transforms.augmented import AugmentedCrop
from vitlab.data.transforms.color import CHANGES
from vitlab.data.transforms.functional import MEAN, STD, normalize, resize, stack_of
from vitlab.data.transforms.multicrop import MultiCrop
from vitlab.data.transforms.random_crop import RandomCrop, random_box, uniforms
from vitlab.data.transforms.segmentation import (
    IGNORE_INDEX,
    ImageAndMask,
    Mask,
    SegmentationCrop,
    SegmentationSquare,
    SegmentationTransform,
    SegmentationWhole,
    resize_nearest,
)
from vitlab.data.transforms.shifted import ResizeRandomCrop
from vitlab.data.transforms.single import CenterCrop, SingleCrop
from vitlab.data.transforms.sliding_window import slide, windows
from vitlab.data.transforms.transform import Pixels, Seed, Shown, Stack, Transform

__all__ = [
    "CHANGES",
    "IGNORE_INDEX",
    "MEAN",
    "STD",
    "AugmentedCrop",
    "CenterCrop",
    "ImageAndMask",
    "Mask",
    "MultiCrop",
    "Pixels",
    "RandomCrop",
    "ResizeRandomCrop",
    "Seed",
    "SegmentationCrop",
    "SegmentationRandomResizedCrop",
    "SegmentationSquare",
    "SegmentationTransform",
    "SegmentationWhole",
    "Shown",
    "SingleCrop",
    "Stack",
    "Transform",
    "normalize",
    "random_box",
    "resize",
    "resize_nearest",
    "slide",
    "stack_of",
    "uniforms",
    "windows",
]
