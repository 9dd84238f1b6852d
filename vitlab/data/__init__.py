"""Files on disk to batches. Import datasets and views from here."""

from vitlab.data.ade20k import ADE20K
from vitlab.data.batch import Batch
from vitlab.data.cifar import CIFAR10, CIFAR100
from vitlab.data.cityscapes import Cityscapes
from vitlab.data.errors import DataError
from vitlab.data.folder import Folder
from vitlab.data.image import UnreadableImage, read_image, read_mask
from vitlab.data.imagenet import ImageNet
from vitlab.data.module import Data, Division
from vitlab.data.sampler import GlobalBatches
from vitlab.data.samples import Samples
from vitlab.data.views import (
    MEAN,
    STD,
    AugmentedCrop,
    CenterCrop,
    MultiCrop,
    SegmentationCrop,
    SegmentationSquare,
    SegmentationViews,
    SegmentationWhole,
    ShiftedCrop,
    SingleCrop,
    Views,
    normalize,
    slide,
)
from vitlab.data.voc import VOC2012

__all__ = [
    "ADE20K",
    "CIFAR10",
    "CIFAR100",
    "MEAN",
    "STD",
    "VOC2012",
    "AugmentedCrop",
    "Batch",
    "CenterCrop",
    "Cityscapes",
    "Data",
    "DataError",
    "Division",
    "Folder",
    "GlobalBatches",
    "ImageNet",
    "MultiCrop",
    "Samples",
    "SegmentationCrop",
    "SegmentationSquare",
    "SegmentationViews",
    "SegmentationWhole",
    "ShiftedCrop",
    "SingleCrop",
    "UnreadableImage",
    "Views",
    "normalize",
    "read_image",
    "read_mask",
    "slide",
]
