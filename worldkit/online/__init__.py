"""Agents that learn by acting: a data set that grows, a loop that acts, learns and looks, runs that go on exactly."""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "config": ("OnlineConfig",),
    "replay": ("Replay",),
    "trainer": ("OnlineTrainer", "OnlineResult"),
    "recipes": ("make_online_trainer", "train_online"),
    "checkpoint": ("find_agent",),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
