"""Who acts: `Policy`, and agents that can be trained, saved and loaded.

A policy sees frames and gives actions, for several environments at once. ``random`` and ``scripted`` need nothing;
agents (``cloning``, ``imitation``, ``planner``) have a configuration and are saved as a folder.
"""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "learner": ("Learner", "ModelLearner"),
    "base": ("Agent", "Policy", "list_agents", "register_agent"),
    "actions": ("ActionSpec",),
    "simple": ("RandomPolicy", "ScriptedPolicy"),
    "cloning": ("Cloning",),
    "imitation": ("Imitation",),
    "planner": ("PlannerAgent",),
    "folder": ("create_agent", "load_agent", "save_agent"),
    "training": ("train_agent",),
    "acting": ("Acting", "check_fits"),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
