"""Datasets on disk."""

from vitlab.data.datasets.ade20k import ADE20K
from vitlab.data.datasets.cifar import CIFAR10, CIFAR100
from vitlab.data.datasets.cityscapes import Cityscapes
from vitlab.data.datasets.folder import Folder
from vitlab.data.datasets.imagenet import ImageNet
from vitlab.data.datasets.voc import VOC2012
