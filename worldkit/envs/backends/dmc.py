"""Backend ``dmc``: the DeepMind Control Suite, ``dmc/reacher-easy``; of dm_control itself, no other package between.

Actions and observations are float32; observations are one vector, in the order of the task. An episode ends by time
(truncated), or where the task's discount becomes 0 (terminated).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import ConfigError, require_extra
from ..mujoco import Drawer, import_mujoco
from ..registry import unknown_env


def _suite() -> Any:
    import_mujoco("dmc", "the DeepMind Control Suite")
    return require_extra("dm_control.suite", "dmc", "the DeepMind Control Suite")


def ids() -> list[str]:
    """All tasks, ``dmc/DOMAIN-TASK``."""
    return [f"dmc/{domain}-{task}" for domain, task in _suite().ALL_TASKS]


def make(env_id: str, *, camera: int | str = 0, **options: Any) -> gymnasium.Env:
    """A task, ``"dmc/cartpole-swingup"``.

    Args:
        env_id: Domain and task.
        camera: Number or name of the camera.
        **options: Of the task, such as ``time_limit``.
    """
    named = "dmc/" + env_id.removeprefix("dm_control/").removeprefix("dmc/").removesuffix("-v0")
    known = ids()
    if named not in known:
        raise unknown_env(env_id, known, "dmc")
    domain, task = named.removeprefix("dmc/").split("-")
    return ControlSuite(domain, task, camera=camera, task_options=options)


class ControlSuite(gymnasium.Env):
    """A task of the suite as a Gymnasium environment.

    Args:
        domain, task: Names of the suite.
        camera: Number or name of the camera.
        task_options: Of the task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    draw_size = (480, 480)

    def __init__(self, domain: str, task: str, *, camera: int | str, task_options: dict[str, Any]):
        self.render_mode = "rgb_array"
        self._inner = _suite().load(domain, task, task_kwargs={"random": 0, **task_options})
        low, high = self._inner.action_spec().minimum, self._inner.action_spec().maximum
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        count = sum(int(np.prod(part.shape)) for part in self._inner.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (count,), np.float32)
        cameras = self._inner.physics.model.ncam
        if isinstance(camera, int) and not -1 <= camera < cameras:
            raise ConfigError(f"dmc/{domain}-{task} has cameras 0 to {cameras - 1}, and -1, the free one; got {camera}")
        self._drawer = Drawer(None if camera == -1 else camera)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; a seed decides all that the task draws, in this one and in those that follow."""
        super().reset(seed=seed)
        if seed is not None or not hasattr(self, "_seeded"):
            self._seeded = True
            self._inner.task.random.seed(int(self.np_random.integers(2**31)))
        return self._vector(self._inner.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step of control."""
        seen = self._inner.step(np.asarray(action, np.float64))
        ended = seen.last() and seen.discount == 0
        return self._vector(seen), float(seen.reward or 0), bool(ended), bool(seen.last() and not ended), {}

    def _vector(self, seen: Any) -> np.ndarray:
        return np.concatenate([np.ravel(part) for part in seen.observation.values()]).astype(np.float32)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The scene at a size, uint8 ``[H, W, 3]``."""
        physics = self._inner.physics
        return self._drawer.draw(physics.model.ptr, physics.data.ptr, height, width)

    def render(self) -> np.ndarray:
        """The scene."""
        return self.draw(*self.draw_size)

    def close(self) -> None:
        """Close the environment and its pictures."""
        self._drawer.close()
        self._inner.close()
