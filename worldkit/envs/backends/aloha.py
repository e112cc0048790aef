"""Backend ``aloha``: two ViperX arms, of gym-aloha: ``aloha/transfer-cube`` and ``aloha/insertion``.

gym-aloha pins a MuJoCo of its own: `worldkit.envs.apart`. It draws three pictures of 480 x 640 in every step whatever
was asked for; here the state is observed, and drawn once at the size asked for.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ..apart import require_apart
from ..mujoco import Drawer, import_mujoco, without_screen
from ..registry import unknown_env

_TASKS = {"aloha/transfer-cube": "transfer_cube", "aloha/insertion": "insertion"}
_THEIRS = {"gym_aloha/AlohaTransferCube-v0": "aloha/transfer-cube", "gym_aloha/AlohaInsertion-v0": "aloha/insertion"}


def _package() -> None:
    without_screen()
    require_apart("gym_aloha", "aloha", "Aloha")
    import_mujoco("aloha", "Aloha")


def ids() -> list[str]:
    """The two tasks."""
    _package()
    return list(_TASKS)


def make(env_id: str, *, camera: str = "top", max_episode_steps: int = 300) -> gymnasium.Env:
    """A task, ``"aloha/transfer-cube"``; also as ``"gym_aloha/AlohaTransferCube-v0"``."""
    named = _THEIRS.get(env_id, env_id)
    if named not in _TASKS:
        raise unknown_env(env_id, list(_TASKS), "aloha")
    return TimeLimit(Aloha(_TASKS[named], camera), max_episode_steps)


class Aloha(gymnasium.Env):
    """A task. Observation: places (14) and speeds (14) of the joints, then of the things. Reward: 0 to 4, 4 is success.

    Args:
        task: Name in gym-aloha.
        camera: Name of the camera: top, angle, front_close, ...
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    draw_size = (480, 640)

    def __init__(self, task: str, camera: str):
        _package()
        from gym_aloha.env import AlohaEnv

        self.render_mode, self._task = "rgb_array", task
        self._control = AlohaEnv(task)._env
        own = self._control.task
        own.get_observation = lambda physics: {
            "qpos": own.get_qpos(physics), "qvel": own.get_qvel(physics), "things": own.get_env_state(physics)}
        self.action_space = spaces.Box(-1, 1, (14,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, self.reset(seed=0)[0].shape, np.float32)
        self._drawer = Drawer(camera)
        self._np_random = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode."""
        from gym_aloha import utils
        from gym_aloha.tasks.sim import BOX_POSE

        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31))
        transfer = self._task == "transfer_cube"
        BOX_POSE[0] = utils.sample_box_pose(drawn) if transfer else np.concatenate(utils.sample_insertion_pose(drawn))
        return self._vector(self._control.reset()), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step of control."""
        seen = self._control.step(np.asarray(action, np.float64))
        solved = bool(seen.reward == 4)
        return self._vector(seen), float(seen.reward), solved, False, {"is_success": solved}

    def _vector(self, seen: Any) -> np.ndarray:
        return np.concatenate([np.ravel(part) for part in seen.observation.values()]).astype(np.float32)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The scene at a size, uint8 ``[H, W, 3]``."""
        physics = self._control.physics
        return self._drawer.draw(physics.model.ptr, physics.data.ptr, height, width)

    def render(self) -> np.ndarray:
        """The scene."""
        return self.draw(*self.draw_size)

    def close(self) -> None:
        """Close the environment and its pictures."""
        self._drawer.close()
        self._control.close()
