"""All protocols; a YAML file of `configs/protocols` chooses one and its settings."""

from vitlab.evaluation.dense_heads import DenseHeads
from vitlab.evaluation.dense_logistic import DenseLogistic
from vitlab.evaluation.dense_neighbors import DenseNeighbors
from vitlab.evaluation.fast_dense import FastDense
from vitlab.evaluation.hummingbird import Hummingbird
from vitlab.evaluation.image_heads import ImageHeads
from vitlab.evaluation.image_neighbors import ImageNeighbors

__all__ = [
    "DenseHeads",
    "DenseLogistic",
    "DenseNeighbors",
    "FastDense",
    "Hummingbird",
    "ImageHeads",
    "ImageNeighbors",
]
