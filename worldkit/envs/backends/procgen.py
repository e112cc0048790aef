"""Backend ``procgen``: Procgen's 16 games, levels made by chance, as Gymnasium environments whose seed decides all.

The package is ``procgen2``, OpenAI's Procgen built for newer Pythons; it needs NumPy before 2, so it lives apart:
`worldkit.envs.apart`. Two things are put right. ``reset(seed=)`` decides the level (the package plays on through levels
of its own choice), and the last picture of an episode is of that episode: the package shows the next level by then, so
here the picture before it stays. Procgen does not tell running out of time from other ends: all are ``terminated``.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import ConfigError
from ..apart import require_apart
from ..registry import unknown_env
from ..resize import resize

MODES = ("easy", "hard")


def _package() -> Any:
    with contextlib.redirect_stderr(io.StringIO()):  # its gym says at length that it is old
        return require_apart("procgen", "procgen", "Procgen")


def ids() -> list[str]:
    """The games, ``procgen/bigfish``."""
    from importlib import import_module

    _package()
    return [f"procgen/{name}" for name in import_module("procgen.env").ENV_NAMES]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """A game, ``"procgen/bigfish"``; options as `Procgen` has them."""
    known = ids()
    if env_id not in known:
        raise unknown_env(env_id, known, "procgen")
    return Procgen(env_id.partition("/")[2], **options)


class Procgen(gymnasium.Env):
    """A game of Procgen. Observation: its picture, uint8 ``[64, 64, 3]``; 15 actions, of which not all do something.

    ``info`` holds ``"level_seed"``, and at the end ``"level_complete"``.

    Args:
        game: Its name.
        start_level: First of the levels that episodes are played on.
        num_levels: How many there are; 0: as many as there are.
        distribution_mode: ``"easy"`` or ``"hard"``.
        **options: Of ``procgen.ProcgenGym3Env``: ``use_backgrounds``, ``center_agent``, ``restrict_themes``, ...
    Raises:
        ConfigError: for another mode, or fewer levels than none.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
    draw_size = (512, 512)

    def __init__(self, game: str, *, start_level: int = 0, num_levels: int = 0, distribution_mode: str = "hard",
                 **options: Any):
        if distribution_mode not in MODES:
            raise ConfigError(f"distribution_mode of 'procgen/{game}' must be {' or '.join(map(repr, MODES))}, got "
                              f"{distribution_mode!r}")
        if num_levels < 0 or start_level < 0:
            raise ConfigError(f"start_level and num_levels of 'procgen/{game}' must be at least 0, got {start_level} "
                              f"and {num_levels}")
        self.render_mode, self._levels = "rgb_array", (start_level, num_levels or 2**31 - start_level)
        self._options = {"env_name": game, "distribution_mode": distribution_mode, **options}
        self._inner: Any = self._begin(start_level)
        self.action_space = spaces.Discrete(self._inner.ac_space.eltype.n)
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def _begin(self, level: int) -> Any:
        inner = _package().ProcgenGym3Env(num=1, num_threads=0, num_levels=1, start_level=level, rand_seed=level,
                                          render_mode="rgb_array", **self._options)
        self._seen, self._large = inner.observe()[1]["rgb"][0].copy(), inner.get_info()[0]["rgb"].copy()
        return inner

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin a level; without a seed one that the seed before decides."""
        super().reset(seed=seed)
        first, count = self._levels
        level = first + int(self.np_random.integers(count))
        self.close()
        self._inner = self._begin(level)
        return self._seen.copy(), {"level_seed": level}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step of the game."""
        self._inner.act(np.array([action], np.int32))
        (reward,), seen, (over,) = self._inner.observe()
        told = self._inner.get_info()[0]
        info = {"level_seed": int(told["prev_level_seed" if over else "level_seed"])}
        if over:
            info["level_complete"] = bool(told["prev_level_complete"])
        else:
            self._seen, self._large = seen["rgb"][0].copy(), told["rgb"].copy()
        return self._seen.copy(), float(reward), bool(over), False, info

    def draw(self, height: int, width: int) -> np.ndarray:
        """The picture at a size, uint8 ``[H, W, 3]``: at 64 the game's own observation, else of its large picture."""
        return self._seen.copy() if (height, width) == (64, 64) else resize(self._large, height, width)

    def render(self) -> np.ndarray:
        """The large picture, uint8 ``[512, 512, 3]``."""
        return self._large.copy()

    def close(self) -> None:
        """Close the game."""
        self._inner.close()
