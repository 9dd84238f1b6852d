"""Probes of frozen features: fit, predict, score. Plain torch."""

from vitlab.probes.dense import DenseProbe
from vitlab.probes.features import Features, InferenceConfig, Probe, image_features
from vitlab.probes.knn import KNN
from vitlab.probes.logistic import LogisticProbe

__all__ = [
    "KNN",
    "DenseProbe",
    "Features",
    "InferenceConfig",
    "LogisticProbe",
    "Probe",
    "image_features",
]
