"""Images to tokens. Plain torch."""

from vitlab.encoders.encoder import Encoder
from vitlab.encoders.locality import Locality
from vitlab.encoders.pixels import Pixels
from vitlab.encoders.roles import Specialize
from vitlab.encoders.taps import record
from vitlab.encoders.tokens import State, Tokens
from vitlab.encoders.vit import ViT

__all__ = ["Encoder", "Locality", "Pixels", "Specialize", "State", "Tokens", "ViT", "record"]
