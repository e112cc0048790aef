"""Backend ``metaworld``: Meta-World's 50 tasks of a Sawyer arm, with the goal in the state, and its scripted policies.

Meta-World pins a MuJoCo of its own: `worldkit.envs.apart`. Two things are put right. ``reset(seed=)`` decides where
things and goals are (the package ignores it), and observations lie in the space that is told. As in the package an
episode takes 500 steps and success ends none: ``info["success"]``; ``terminate_on_success=True`` lets it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ...errors import ConfigError
from ..apart import require_apart
from ..mujoco import Drawn, import_mujoco, without_screen
from ..registry import unknown_env

_CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")


def _package() -> Any:
    without_screen()
    package = require_apart("metaworld", "metaworld", "Meta-World")
    import_mujoco("metaworld", "Meta-World")
    return package


def ids() -> list[str]:
    """The tasks, ``metaworld/reach-v3``."""
    return [f"metaworld/{name}" for name in _package().ALL_V3_ENVIRONMENTS]


def make(env_id: str, *, camera: str = "corner4", max_episode_steps: int = 500, **options: Any) -> gymnasium.Env:
    """A task, ``"metaworld/reach-v3"``; also as ``"Meta-World/reach-v3"``.

    Args:
        env_id: The task.
        camera: Name of the camera.
        max_episode_steps: Up to 500.
        **options: ``terminate_on_success``.
    """
    known = ids()
    named = f"metaworld/{env_id.rpartition('/')[2]}"
    if named not in known:
        raise unknown_env(env_id, known, "metaworld")
    if camera not in _CAMERAS:
        raise ConfigError(f"camera of '{env_id}' must be one of {', '.join(_CAMERAS)}, got {camera!r}")
    if not 1 <= max_episode_steps <= 500:
        raise ConfigError(f"max_episode_steps of '{env_id}' must be 1 to 500, which Meta-World ends at, got "
                          f"{max_episode_steps}")
    return TimeLimit(_Upright(MetaWorld(named.removeprefix("metaworld/"), **options), camera), max_episode_steps)


class _Upright(Drawn):
    """The cameras in the corners hang upside down."""

    def draw(self, height: int, width: int) -> np.ndarray:
        """The scene at a size, uint8 ``[H, W, 3]``."""
        picture = super().draw(height, width)
        return picture[::-1, ::-1].copy() if self._drawer.camera.startswith("corner") else picture


class MetaWorld(gymnasium.Wrapper):
    """A task of Meta-World. Observation: its 39 numbers, the last three the goal.

    Args:
        name: Of the task.
        terminate_on_success: Whether success ends an episode.
    """

    def __init__(self, name: str, *, terminate_on_success: bool = False):
        package = _package()
        from metaworld.policies import ENV_POLICY_MAP

        inner = package.ALL_V3_ENVIRONMENTS[name](render_mode="rgb_array")
        inner._partially_observable = False
        inner.__dict__.pop("sawyer_observation_space", None)  # observations are clipped to it, the goal to 0
        # places and goals are drawn anew at every reset, from the environment's own generator
        inner._freeze_rand_vec, inner.seeded_rand_vec, inner._set_task_called = False, True, True
        super().__init__(inner)
        self._policy, self._terminates = ENV_POLICY_MAP[name](), terminate_on_success
        self.observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self._seen = np.zeros(39)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode."""
        import mujoco

        inner = self.env.unwrapped
        if seed is not None:
            inner.seed(seed)
        mujoco.mj_resetData(inner.model, inner.data)
        self._seen, info = inner.reset()
        return self._seen.copy(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step; rewards are 0 to 10."""
        self._seen, reward, _, truncated, info = self.env.step(np.asarray(action, np.float32))
        over = self._terminates and bool(info["success"])
        return self._seen.copy(), float(reward), over, bool(truncated), info

    def scripted_action(self) -> np.ndarray:
        """What Meta-World's own policy for the task does."""
        space = self.action_space
        return np.clip(self._policy.get_action(self._seen), space.low, space.high).astype(np.float32)
