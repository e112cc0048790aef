"""Heads: what a model knows of a transition besides its latents, such as its reward. Importing this package registers
the built-in ones.

A module loads when its component is used. Your own may register with a decorator, ``@register_head(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import list_heads, register_head

register_head("gaussian", "worldkit.heads.gaussian:GaussianHead", aliases=("regression",))
register_head("bernoulli", "worldkit.heads.bernoulli:BernoulliHead")
register_head("categorical", "worldkit.heads.categorical:CategoricalHead")
register_head("normed-bernoulli", "worldkit.heads.normed:NormedBernoulli")
register_head("symlog-two-hot", "worldkit.heads.normed:SymlogTwoHot")
register_head("two-hot", "worldkit.heads.two_hot:TwoHotHead", aliases=("twohot",))

_BASE = ("Head", "HeadConfig")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE, "list_heads", "register_head"]
