"""All protocols; a YAML file of `configs/protocols` chooses one and its settings."""

from vitlab.evaluation.protocol import Protocol
from vitlab.evaluation.protocols.capi import DenseKNN, DenseLogistic
from vitlab.evaluation.protocols.dense_heads import DenseHeads, MMSegHeads
from vitlab.evaluation.protocols.fast_dense import FastDense
from vitlab.evaluation.protocols.hummingbird import Hummingbird
from vitlab.evaluation.protocols.image_heads import ImageHeads
from vitlab.evaluation.protocols.image_knn import ImageKNN

__all__ = [
    "DenseHeads",
    "DenseKNN",
    "DenseLogistic",
    "FastDense",
    "Hummingbird",
    "ImageHeads",
    "ImageKNN",
    "MMSegHeads",
    "Protocol",
]
