"""Actor-critic learned in imagination: Dreamer's behaviour in its three generations, of any world model that imagines.

`actions` (distributions), `networks` (actor and critic), `returns`, `normalizer`, `losses` (pure functions of what was
imagined) and `behavior` (the module that owns actor and critic) know no environment; `agent` acts, `learner` trains it
and its model together.
"""

from __future__ import annotations

from typing import Any

from ...lazy import lazy_exports

_EXPORTS = {
    "actions": ("BoundedNormal", "OneHot", "TanhNormal", "TruncNormal"),
    "networks": ("Actor", "ActorConfig", "Critic", "CriticConfig"),
    "returns": ("lambda_returns",),
    "normalizer": ("Normalizer", "NormalizerConfig"),
    "config": ("ActorCriticConfig",),
    "behavior": ("ActorCritic",),
    "agent": ("ActorCriticAgent",),
    "learner": ("ActorCriticLearner",),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
