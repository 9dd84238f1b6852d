"""Weights in and out: one file for each family of weights, stating its facts."""

from vitlab.encoders.interop.coverage import Coverage
from vitlab.encoders.interop.reading import FAMILIES, Imported, load, read_weights
from vitlab.encoders.interop.writing import export, import_weights, save

__all__ = [
    "FAMILIES",
    "Coverage",
    "Imported",
    "export",
    "import_weights",
    "load",
    "read_weights",
    "save",
]
