"""Latent actions: what happened between two frames, inferred. Importing this package registers the built-in
ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_latent_action(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_latent_action

register_latent_action("factored", "worldkit.latent_actions.factored:FactoredLatentAction", aliases=("flam",))
register_latent_action("gaussian", "worldkit.latent_actions.gaussian:GaussianLatentAction", aliases=("lpwm",))
register_latent_action("playslot", "worldkit.latent_actions.playslot:PlaySlotLatentAction")
register_latent_action("single", "worldkit.latent_actions.single:SingleLatentAction", aliases=("adaworld",))
register_latent_action("vq", "worldkit.latent_actions.vq:VQLatentAction", aliases=("genie",))

_BASE = ("ActionDist", "LatentAction")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
