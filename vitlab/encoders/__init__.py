"""Images to tokens. Plain torch."""

from vitlab.encoders.checkpoint_io import LoadedEncoder, LoadReport, load, load_pretrained, save
from vitlab.encoders.cls_specialization import CLSSpecialization
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.entmax.normalizer import Normalizer
from vitlab.encoders.hooks import record
from vitlab.encoders.locality import Locality
from vitlab.encoders.pixels import Pixels
from vitlab.encoders.prompted_vit import PromptedViT
from vitlab.encoders.prompts import Pool, Prompts
from vitlab.encoders.tokens import Tokens, TokenSequence
from vitlab.encoders.vit import ViT

__all__ = [
    "CLSSpecialization",
    "Encoder",
    "LoadReport",
    "LoadedEncoder",
    "Locality",
    "Normalizer",
    "Pixels",
    "Pool",
    "PromptedViT",
    "Prompts",
    "TokenSequence",
    "Tokens",
    "ViT",
    "load",
    "load_pretrained",
    "record",
    "save",
]
