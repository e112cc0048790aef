"""Environments of many packages, all of them real Gymnasium environments that give pixels.

``make_env("CartPole-v1")`` is a `gymnasium.Env`: ``reset`` gives ``(observation, info)``, ``step`` five values, and the
same seed gives the same pixels, whatever else is alive in the process. Packages are imported when an environment of
theirs is made, and not before.
"""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "registry": (
        "make_env", "list_envs", "list_env_backends", "get_env_backend_spec", "register_env_backend", "EnvBackendSpec",
    ),
    "observe": ("Observe",),
    "imagination": ("as_env", "ImaginedEnv", "ImaginedVectorEnv"),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
