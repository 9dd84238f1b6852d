"""Images to tokens. Plain torch."""

from vitlab.encoders.encoder import Encoder
from vitlab.encoders.interop import (
    Coverage,
    Imported,
    export,
    import_weights,
    load,
    read_weights,
    save,
)
from vitlab.encoders.locality import Locality
from vitlab.encoders.normalizer import Normalizer
from vitlab.encoders.pixels import Pixels
from vitlab.encoders.prompted import Prompted
from vitlab.encoders.prompts import Pool, Prompts
from vitlab.encoders.roles import Specialize
from vitlab.encoders.taps import record
from vitlab.encoders.tokens import State, Tokens
from vitlab.encoders.vit import ViT

__all__ = [
    "Coverage",
    "Encoder",
    "Imported",
    "Locality",
    "Normalizer",
    "Pixels",
    "Pool",
    "Prompted",
    "Prompts",
    "Specialize",
    "State",
    "Tokens",
    "ViT",
    "export",
    "import_weights",
    "load",
    "read_weights",
    "record",
    "save",
]
