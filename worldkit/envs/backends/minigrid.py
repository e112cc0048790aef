"""Backend ``minigrid``: MiniGrid and BabyAI. Drawn in tiles that fit the size asked for; the mission is in ``info``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from ...errors import require_extra
from ..registry import unknown_env

_NAMES = ("MiniGrid-", "BabyAI-")


def ids() -> list[str]:
    """All environments of the package."""
    require_extra("minigrid", "envs", "MiniGrid")
    return [name for name in gymnasium.registry if name.startswith(_NAMES)]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """An environment of the package."""
    known = ids()
    if env_id not in known:
        raise unknown_env(env_id, known, "minigrid")
    return _Tiles(gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True, **options))


class _Tiles(gymnasium.Wrapper):
    """Draws only as many pixels per tile as are asked for."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.draw_size = (32 * env.unwrapped.height, 32 * env.unwrapped.width)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The whole grid, what the agent sees lit, uint8 ``[H, W, 3]``."""
        from ..resize import resize

        inner = self.env.unwrapped
        tile = max(4, -(-height // inner.height), -(-width // inner.width))
        return resize(inner.get_frame(inner.highlight, tile, inner.agent_pov), height, width)
