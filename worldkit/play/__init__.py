"""Playing with a model's dreams: in a browser (``worldkit play --web``) or in the terminal.

`Session` is the game itself, `moments` what can be looked back to, `server` the browser's side, `terminal` the other.
"""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {"session": ("Session",)}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    return _find(name)
