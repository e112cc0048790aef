"""Backend ``atari``: the Arcade Learning Environment, in colour, as its v5 is set (sticky actions, 4 frames)."""

from __future__ import annotations

from typing import Any

import gymnasium

from ...errors import require_extra
from ..registry import unknown_env


def ids() -> list[str]:
    """The v5 environments."""
    ale = require_extra("ale_py", "atari", "Atari")
    gymnasium.register_envs(ale)
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # else every game begins with a banner
    return [name for name in gymnasium.registry if name.startswith("ALE/")]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """A game, ``"ALE/Pong-v5"``; ``"Pong"`` will do where the backend is given."""
    known = ids()
    named = env_id if "/" in env_id else f"ALE/{env_id.removesuffix('-v5')}-v5"
    if named not in known:
        raise unknown_env(env_id, known, "atari")
    options = {"obs_type": "rgb", "render_mode": "rgb_array", **options}
    return gymnasium.make(named, disable_env_checker=True, **options)
