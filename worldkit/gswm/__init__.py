"""G-SWM (Generative Structured World Models): see `worldkit.gswm.model.GSWM`, and docs/gswm.md."""

from .config import GSWMConfig
from .model import GSWM

__all__ = ["GSWM", "GSWMConfig"]
