"""Checkpoints of other projects -> worldkit models."""

from .ddlp import from_ddlp
from .diffuse_ddlp import from_diffuse_ddlp
from .lpwm import from_lpwm

__all__ = ["from_ddlp", "from_diffuse_ddlp", "from_lpwm"]
