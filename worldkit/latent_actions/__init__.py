"""Latent actions: what happened between two frames, inferred. Importing this package registers the built-in ones."""

from . import gaussian as gaussian
from .base import ActionDist, LatentAction

__all__ = ["ActionDist", "LatentAction"]
