"""Decoders: latent -> video. Importing this package registers the built-in ones."""

from . import particle as particle
from . import patch as patch
from . import slot as slot
from .base import Decoded, Decoder

__all__ = ["Decoded", "Decoder"]
