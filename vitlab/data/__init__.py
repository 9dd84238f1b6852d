"""Files on disk to batches. Import datasets and views from here."""

from vitlab.data.ade20k import ADE20K
from vitlab.data.batch import Batch
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
    CenterCrop,
    MultiCrop,
    SegmentationCrop,
    SegmentationSquare,
    SegmentationViews,
    SegmentationWhole,
    SingleCrop,
    Views,
    normalize,
    slide,
)
from vitlab.data.voc import VOC2012

__all__ = [
    "ADE20K",
    "MEAN",
    "STD",
    "VOC2012",
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
    "SingleCrop",
    "UnreadableImage",
    "Views",
    "normalize",
    "read_image",
    "read_mask",
    "slide",
]
