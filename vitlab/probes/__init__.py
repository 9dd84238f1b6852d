"""Frozen features to scores. Plain torch."""

from vitlab.probes.dense import Dense, Segmentation
from vitlab.probes.knn import KNN
from vitlab.probes.linear import Linear
from vitlab.probes.probe import Features, Loading, Probe, image_features

__all__ = [
    "KNN",
    "Dense",
    "Features",
    "Linear",
    "Loading",
    "Probe",
    "Segmentation",
    "image_features",
]
