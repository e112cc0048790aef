"""Episodes of environments, as data sets that grow: `collect`."""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "collect": ("collect", "Collected", "episode_seed"),
    "episode": ("play_episode",),
    "policies": ("Policy", "PerEnvironment", "make_policy"),
    "folder": ("EpisodeFolder",),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
