"""Weights in and out: one file for each family of weights, stating its facts."""

from vitlab.encoders.checkpoint_io.exporter import ExportFormat, save
from vitlab.encoders.checkpoint_io.files import is_folder, read_checkpoint
from vitlab.encoders.checkpoint_io.importer import (
    FAMILIES,
    FamilyName,
    LoadedEncoder,
    load,
    load_pretrained,
)
from vitlab.encoders.checkpoint_io.report import LoadReport

__all__ = [
    "FAMILIES",
    "ExportFormat",
    "FamilyName",
    "LoadReport",
    "LoadedEncoder",
    "is_folder",
    "load",
    "load_pretrained",
    "read_checkpoint",
    "save",
]
