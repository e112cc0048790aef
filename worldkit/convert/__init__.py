"""Checkpoints of other projects -> worldkit models."""

from .diffuse_ddlp import from_diffuse_ddlp
from .lpwm import from_lpwm

__all__ = ["from_diffuse_ddlp", "from_lpwm"]
