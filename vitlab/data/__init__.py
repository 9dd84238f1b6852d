"""Files on disk to batches. Import datasets and views from here."""

from vitlab.data.batch import Batch
from vitlab.data.datamodule import BatchLayout, VisionDataModule
from vitlab.data.datasets import ADE20K, CIFAR10, CIFAR100, VOC2012, Cityscapes, Folder, ImageNet
from vitlab.data.decode import UnreadableImage, read_image, read_mask
from vitlab.data.errors import DataError
from vitlab.data.loader import Loader
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
