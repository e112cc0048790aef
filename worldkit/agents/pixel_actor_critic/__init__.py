"""Actor-critics that see pictures and learn in dreams of pictures: IRIS's and DIAMOND's, of any model that draws.

`networks` (convolutions, an LSTM cell, policy and value), `returns`, `losses` and `segments` (which clips are drawn)
know no model; `dreams` lets a network act in one, `agent` acts in the world, and `learner` trains the parts of the
model and the behaviour, each in its turn.
"""

from __future__ import annotations

from typing import Any

from ...lazy import lazy_exports

_EXPORTS = {
    "networks": ("NetworkConfig", "PixelNetwork"),
    "returns": ("inside_returns", "lasting_returns"),
    "losses": ("Dreamed", "actor_critic_losses"),
    "segments": ("SegmentsConfig",),
    "config": ("PixelActorCriticConfig",),
    "dreams": ("LastingDreams", "Lived", "live_afresh"),
    "agent": ("PixelActorCriticAgent",),
    "learner": ("PixelLearner",),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
