"""Backend ``atari``: the Arcade Learning Environment, in colour, as its v5 is set (sticky actions, 4 frames).

``protocol="iris"`` or ``"diamond"`` prepares a game as these papers' codes do, see
`worldkit.envs.backends.atari_papers.Papers`.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from ...errors import require_extra
from ..registry import unknown_env

_OF_PAPERS = ("training", "noops", "max_frames", "side")


def ids() -> list[str]:
    """The v5 environments."""
    ale = require_extra("ale_py", "atari", "Atari")
    gymnasium.register_envs(ale)
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # else every game begins with a banner
    return [name for name in gymnasium.registry if name.startswith("ALE/")]


def make(env_id: str, *, protocol: str | None = None, **options: Any) -> gymnasium.Env:
    """A game, ``"ALE/Pong-v5"``; ``"Pong"`` will do where the backend is given.

    Args:
        env_id: Its name.
        protocol: Prepared as in ``"iris"`` or ``"diamond"``; None: as v5 is.
        **options: Of the emulator, and of the protocol.
    Raises:
        UnknownComponentError: there is no such game; the nearest one is named.
        ConfigError: an unknown protocol.
    """
    known = ids()
    named = env_id if "/" in env_id else f"ALE/{env_id.removesuffix('-v5')}-v5"
    if named not in known:
        raise unknown_env(env_id, known, "atari")
    options = {"obs_type": "rgb", "render_mode": "rgb_array", **options}
    if protocol is None:
        return gymnasium.make(named, disable_env_checker=True, **options)
    from .atari_papers import Papers

    own = {name: options.pop(name) for name in _OF_PAPERS if name in options}
    game = named.removeprefix("ALE/").removesuffix("-v5")
    return Papers(gymnasium.make(f"{game}NoFrameskip-v4", disable_env_checker=True, **options), protocol, **own)
