"""Conditioners: actions, language, goal images -> `Condition`. Importing this package registers the built-in
ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_conditioner(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_conditioner

register_conditioner("action", "worldkit.conditioners.action:ActionConditioner", aliases=("actions",))
register_conditioner("transition-action", "worldkit.conditioners.transition_action:TransitionActionConditioner")
register_conditioner("action-mlp", "worldkit.conditioners.action_mlp:ActionMLP", aliases=("lewm-action",))
register_conditioner("goal-image", "worldkit.conditioners.goal_image:GoalImageConditioner", aliases=("goal",))
register_conditioner("language", "worldkit.conditioners.language:LanguageConditioner", aliases=("t5",),
                     extra="language")
register_conditioner("raw-action", "worldkit.conditioners.raw_action:RawAction")

_BASE = ("Conditioner", "ConditionerConfig", "ModelView", "stand_in")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
