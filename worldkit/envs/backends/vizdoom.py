"""Backend ``vizdoom``: ViZDoom's scenarios and Freedoom's levels, seen through the eyes of the player.

Three things are put right. An episode that runs out of time is truncated and not terminated as well, and its last
picture is a real one, as time is kept here (the engine shows nothing once an episode is over); one that the player ends
shows the picture before. The state is the game variables. And the engine's settings do not lie about in the current
folder.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import require_extra
from ..registry import unknown_env
from ..resize import resize


def ids() -> list[str]:
    """All environments of the package."""
    require_extra("vizdoom.gymnasium_wrapper", "doom", "ViZDoom")
    return [name for name in gymnasium.registry if name.startswith("Vizdoom")]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """A scenario, ``"VizdoomBasic-v1"``; options are those of ViZDoom, such as ``frame_skip=4``.

    With ``labels_buffer_enabled=True`` it tells masks: which thing a pixel shows.
    """
    known = ids()
    if env_id not in known:
        raise unknown_env(env_id, known, "vizdoom")
    return Doom(gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True, **options))


class Doom(gymnasium.Wrapper):
    """A ViZDoom environment whose observation is its game variables, and whose time is kept here.

    Args:
        env: As the package makes it.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._game = game = env.unwrapped.game
        folder = Path(tempfile.mkdtemp(prefix="worldkit-doom-"))
        weakref.finalize(self, _end, game, folder)
        game.set_doom_config_path(str(folder / "settings.ini"))
        self._limit = game.get_episode_timeout()
        game.set_episode_timeout(0)
        if game.is_labels_buffer_enabled():
            self.masks = self._masks
        shown = env.observation_space["screen"].shape
        self.draw_size, self._seen = shown[:2], {}
        count = env.observation_space.spaces.get("gamevariables", spaces.Box(0, 1, (0,))).shape[0]
        # a scenario without any: the time
        self.observation_space = spaces.Box(-np.inf, np.inf, (count or 1,), np.float32)

    def close(self) -> None:
        """End the engine."""
        self._game.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode."""
        untidy = Path("_vizdoom")  # the engine makes it where the process is, and leaves it empty
        there = untidy.exists()
        seen, info = self.env.reset(seed=seed, options=options)
        if not there:
            with contextlib.suppress(OSError):
                untidy.rmdir()
        self._begun = self._game.get_episode_time()
        return self._look(seen), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One action, for ``frame_skip`` tics."""
        seen, reward, terminated, _, info = self.env.step(action)
        if not terminated:
            self._seen = seen
        late = 0 < self._limit <= self._game.get_episode_time() - self._begun
        return self._look(self._seen), float(reward), bool(terminated), bool(late and not terminated), info

    def _look(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        self._seen = seen
        if self._game.is_labels_buffer_enabled() and (state := self.env.unwrapped.state) is not None:
            number = np.zeros(256, np.uint8)
            for label in state.labels:
                number[label.value] = 1 + label.object_id % 255
            self._things = number[seen["labels"][..., 0]]
        passed = [(self._game.get_episode_time() - self._begun) / max(self._limit, 1)]
        return np.array(seen.get("gamevariables", passed), np.float32)

    def draw(self, height: int, width: int) -> np.ndarray:
        """What the player sees, uint8 ``[H, W, 3]``."""
        return resize(np.repeat(self._seen["screen"], 3 // self._seen["screen"].shape[-1], axis=-1), height, width)

    def render(self) -> np.ndarray:
        """What the player sees."""
        return self.draw(*self.draw_size)

    def _masks(self, height: int, width: int) -> np.ndarray:
        tall, wide = self._things.shape
        rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in ((height, tall), (width, wide)))
        return self._things[rows][:, columns]


def _end(game: Any, folder: Path) -> None:
    """The engine writes its settings when it ends, so it ends before its folder does."""
    game.close()
    shutil.rmtree(folder, ignore_errors=True)
