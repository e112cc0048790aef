"""How well policies act: episodes with goals and seeds, intervals, and baselines beside them."""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "protocol": ("ControlProtocol",),
    "evaluate": ("evaluate_control",),
    "results": ("ControlResults",),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
