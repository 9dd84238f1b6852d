"""Transforms of an image, or of an image and its mask."""

from vitlab.data.transforms.albumentations_transforms import (
    AlbumentationsCrop,
    AlbumentationsSegmentation,
)
from vitlab.data.transforms.augmented_crop import AugmentedCrop
from vitlab.data.transforms.color import CHANGES
from vitlab.data.transforms.multicrop import MultiCrop
from vitlab.data.transforms.random_crop import RandomCrop, random_box, uniforms
from vitlab.data.transforms.segmentation import (
    IGNORE_INDEX,
    ImageAndMask,
    Mask,
    SegmentationSquare,
    SegmentationTransform,
    SegmentationWhole,
    check_agreement,
    resize_nearest,
)
from vitlab.data.transforms.segmentation_crop import (
    SegmentationCrop,
    SegmentationRandomResizedCrop,
)
from vitlab.data.transforms.single_crop import CenterCrop, ResizeRandomCrop, SingleCrop
from vitlab.data.transforms.sliding_window import slide, windows
from vitlab.data.transforms.transform import (
    MEAN,
    STD,
    Foreground,
    Pixels,
    Seed,
    Stack,
    Transform,
    normalize,
    resize,
    stack_of,
)
