"""Objectives: what training minimises. Importing this package registers the built-in ones."""

from . import elbo as elbo
from . import reconstruction as reconstruction
from . import two_stage as two_stage
from .base import Loss, Objective

__all__ = ["Loss", "Objective"]
