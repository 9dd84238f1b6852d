"""Files on disk to batches. Import datasets and views from here."""

from vitlab.data.batch import Batch
from vitlab.data.datamodule import BatchLayout, VisionDataModule
from vitlab.data.datasets.ade20k import ADE20K
from vitlab.data.datasets.cifar import CIFAR10, CIFAR100
from vitlab.data.datasets.cityscapes import Cityscapes
from vitlab.data.datasets.folder import Folder
from vitlab.data.datasets.imagenet import ImageNet
from vitlab.data.datasets.voc import VOC2012
from vitlab.data.decode import UnreadableImage, read_image, read_mask
from vitlab.data.errors import DataError
from vitlab.data.sampler import GlobalBatchSampler
from vitlab.data.samples import Samples
from vitlab.data.transforms import (
    MEAN,
    STD,
    AlbumentationsCrop,
    AlbumentationsSegmentation,
    AugmentedCrop,
    CenterCrop,
    MultiCrop,
    ResizeRandomCrop,
    SegmentationCrop,
    SegmentationRandomResizedCrop,
    SegmentationSquare,
    SegmentationTransform,
    SegmentationWhole,
    SingleCrop,
    Transform,
    normalize,
    slide,
)

__all__ = [
    "ADE20K",
    "CIFAR10",
    "CIFAR100",
    "MEAN",
    "STD",
    "VOC2012",
    "AlbumentationsCrop",
    "AlbumentationsSegmentation",
    "AugmentedCrop",
    "Batch",
    "BatchLayout",
    "CenterCrop",
    "Cityscapes",
    "DataError",
    "Folder",
    "GlobalBatchSampler",
    "ImageNet",
    "MultiCrop",
    "ResizeRandomCrop",
    "Samples",
    "SegmentationCrop",
    "SegmentationRandomResizedCrop",
    "SegmentationSquare",
    "SegmentationTransform",
    "SegmentationWhole",
    "SingleCrop",
    "Transform",
    "UnreadableImage",
    "VisionDataModule",
    "normalize",
    "read_image",
    "read_mask",
    "slide",
]
