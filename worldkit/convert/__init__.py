"""Checkpoints of other projects -> worldkit models."""

from .ddlp import from_ddlp
from .diamond import from_diamond
from .diffuse_ddlp import from_diffuse_ddlp
from .gswm import from_gswm
from .iris import from_iris
from .lewm import from_lewm
from .lpwm import from_lpwm
from .semantic_wm import from_semantic_wm
from .vjepa import from_vjepa2, from_vjepa2_ac

__all__ = ["from_ddlp", "from_diamond", "from_diffuse_ddlp", "from_gswm", "from_iris", "from_lewm", "from_lpwm",
           "from_semantic_wm", "from_vjepa2", "from_vjepa2_ac"]
