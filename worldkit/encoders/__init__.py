"""Encoders: video -> described latent. Importing this package registers the built-in ones."""

from . import particle as particle
from . import patch as patch
from . import pretrained as pretrained
from . import slot as slot
from .base import Encoder, Encoding

__all__ = ["Encoder", "Encoding"]
