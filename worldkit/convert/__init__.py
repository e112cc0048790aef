"""Checkpoints of other projects -> worldkit models."""

from .ddlp import from_ddlp
from .diffuse_ddlp import from_diffuse_ddlp
from .iris import from_iris
from .lpwm import from_lpwm

__all__ = ["from_ddlp", "from_diffuse_ddlp", "from_iris", "from_lpwm"]
