"""Priors: what the first frames of a video may be. Importing this package registers the built-in ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_prior(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_prior

register_prior("diffusion", "worldkit.priors.diffusion:DiffusionPrior", aliases=("diffuse-ddlp",))
register_prior("dit", "worldkit.priors.dit:DiTPrior", aliases=("image-dit",))

_BASE = ("Prior", "PriorConfig", "Sampling")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
