"""Dynamics: latents so far -> distribution of the next. Importing this package registers the built-in ones."""

from . import diffusion as diffusion
from . import gru as gru
from . import pint as pint
from . import slotformer as slotformer
from .base import Dynamics, Window

__all__ = ["Dynamics", "Window"]
