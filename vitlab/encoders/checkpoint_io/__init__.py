"""Weights in and out: one file for each family of weights, stating its facts."""

from vitlab.encoders.checkpoint_io.exporter import export, import_weights, save
from vitlab.encoders.checkpoint_io.importer import FAMILIES, LoadedEncoder, load, load_pretrained
from vitlab.encoders.checkpoint_io.report import LoadReport

__all__ = [
    "FAMILIES",
    "LoadReport",
    "LoadedEncoder",
    "export",
    "import_weights",
    "load",
    "load_pretrained",
    "save",
]
