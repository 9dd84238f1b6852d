"""Weights in and out: families of weights as declarations, and vitlab's own folders."""

from vitlab.encoders.checkpoint_io.exporter import save
from vitlab.encoders.checkpoint_io.families import FAMILIES
from vitlab.encoders.checkpoint_io.files import few, is_folder, read_checkpoint
from vitlab.encoders.checkpoint_io.importer import LoadedEncoder, load, load_pretrained
from vitlab.encoders.checkpoint_io.match import LoadReport

__all__ = [
    "FAMILIES",
    "LoadReport",
    "LoadedEncoder",
    "few",
    "is_folder",
    "load",
    "load_pretrained",
    "read_checkpoint",
    "save",
]
