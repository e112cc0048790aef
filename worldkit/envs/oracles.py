"""Who plays OGBench's manipulation well: the package's own oracles, each for a kind of thing.

With ``mode="data_collection"`` they go from one random target to the next, as OGBench's data sets were made; otherwise
they carry the cubes of a task to where it wants them, the lowest place first, and one aside where they are in each
other's way.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np

_KINDS = ("cube", "button", "drawer", "window")


def have_oracles(inner: Any) -> bool:
    """Whether there are oracles for what an environment of OGBench wants: for cubes, and for all random targets."""
    others = any(hasattr(inner, name) for name in ("_num_buttons", "_drawer_site_id"))
    return hasattr(inner, "set_new_target") and (inner._mode == "data_collection" or not others)


class Oracles:
    """The oracles of one environment; what they draw comes from NumPy's global generator.

    Args:
        env: A manipulation environment of OGBench, whole.
    """

    def __init__(self, env: gymnasium.Env):
        self._env, self._inner = env, env.unwrapped
        self._free = self._inner._mode == "data_collection"
        puzzle = "Puzzle" in type(self._inner).__name__
        self._oracles = {}
        for kind in _KINDS:
            module = importlib.import_module(f"ogbench.manipspace.oracles.markov.{kind}_markov")
            options = {"gripper_always_closed": True} if puzzle and kind == "button" else {}
            self._oracles[kind] = getattr(module, f"{kind.title()}MarkovOracle")(env=env, **options)
        self._current: Any = None

    def action(self, info: dict[str, Any]) -> np.ndarray:
        """What is best, given the newest ``info`` of the environment."""
        done = self._current is None or self._current.done
        if self._free:
            if done and self._current is not None:
                info = self._inner.set_new_target()[1]
            kind = info["privileged/target_task"]
        else:
            cubes, places = self._cubes(), self._inner._data.mocap_pos[self._inner._cube_target_mocap_ids]
            if done or self._put_down(cubes, info):
                self._job, done = self._next_job(cubes, places), True
            kind, info = "cube", {**info, **self._target()}
        if done:
            self._current = self._oracles[kind]
            self._current.reset(None, info)
        space = self._env.action_space
        return np.clip(self._current.select_action(None, info), space.low, space.high).astype(space.dtype)

    def _cubes(self) -> np.ndarray:
        inner = self._inner
        return np.array([inner._data.joint(f"object_joint_{i}").qpos[:3] for i in range(inner._num_cubes)])

    def _put_down(self, cubes: np.ndarray, info: dict[str, Any]) -> bool:
        """Whether the cube lies where it was carried to, and the hand is away."""
        block, place = self._job
        there = np.linalg.norm(cubes[block] - place) <= 0.02
        return bool(there and info["proprio/gripper_contact"] < 0.1 and info["proprio/effector_pos"][2] > 0.16)

    def _next_job(self, cubes: np.ndarray, places: np.ndarray) -> tuple[int, np.ndarray]:
        """The misplaced cube whose place is lowest, among those whose place is free; if none is, one goes aside."""
        away = np.linalg.norm(cubes - places, axis=1)
        wrong = [int(number) for number in np.flatnonzero(away > 0.02)] or [int(away.argmax())]
        wrong.sort(key=lambda number: (round(places[number][2], 2), number))
        for number in wrong:
            if all(np.linalg.norm(places[number] - other) > 0.04 for i, other in enumerate(cubes) if i != number):
                return number, places[number].copy()
        low, high = self._inner._target_sampling_bounds
        grid = np.stack(np.meshgrid(*np.linspace(low, high, 7).T, [0.02]), -1).reshape(-1, 3)
        room = np.linalg.norm(grid[:, None] - np.concatenate([cubes, places]), axis=-1).min(1)
        return max(wrong, key=lambda number: cubes[number][2]), grid[room.argmax()]

    def _target(self) -> dict[str, Any]:
        """The job as OGBench tells it."""
        from ogbench.manipspace import lie

        block, place = self._job
        turned = lie.SO3(wxyz=self._inner._data.mocap_quat[self._inner._cube_target_mocap_ids[block]])
        return {"privileged/target_block": block, "privileged/target_block_pos": place,
                "privileged/target_block_yaw": np.array([turned.compute_yaw_radians()])}
