"""Backend ``ogbench``: OGBench's manipulation and mazes, drawn by us.

OGBench draws tasks, noise and teleports from NumPy's global generator; here each environment has a state of it for
itself, which its seed decides. ``visual-`` environments and the others differ in the colours of the arm and the camera.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from ...errors import require_extra
from ..mujoco import Drawn, close_safely, import_mujoco
from ..observe import is_picture
from ..oracles import Oracles, have_oracles
from ..registry import unknown_env


def ids() -> list[str]:
    """All environments of the package."""
    import_mujoco("ogbench", "OGBench")
    require_extra("ogbench", "ogbench", "OGBench")
    return [spec.id for spec in gymnasium.registry.values() if str(spec.entry_point).startswith("ogbench.")]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """An environment of the package, ``"cube-single-v0"``, ``"visual-scene-v0"``, ..."""
    known = ids()
    if env_id not in known:
        raise unknown_env(env_id, known, "ogbench")
    if options.get("mode") == "data_collection":  # one target after the other, as in OGBench's data sets
        options.setdefault("terminate_at_goal", False)
    env = gymnasium.make(env_id, disable_env_checker=True, **options)
    inner = env.unwrapped
    for name in ("_initialize_renderer", "initialize_renderer"):  # manipulation's, the mazes'
        if hasattr(inner, name):
            setattr(inner, name, partial(_fast, inner, getattr(inner, name)))
    with _numpy_state(np.random.RandomState(0)):
        env.reset()  # the model is compiled, the camera made
        if is_picture(env.observation_space) or not hasattr(inner, "model"):  # it draws itself
            return OwnNumpyState(env)
    return OwnNumpyState(Drawn(env, None if hasattr(inner, "custom_camera") else "front"))


def _fast(inner: Any, make_renderer: Any) -> None:
    """In the place of an environment's own way of making its renderer: cheap pictures for ``visual-`` observations."""
    model = inner.model
    before = model.vis.quality.shadowsize, model.vis.quality.offsamples
    model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
    make_renderer()
    model.vis.quality.shadowsize, model.vis.quality.offsamples = before
    if (renderer := _renderer_of(inner)) is not None:
        close_safely(renderer)


def _renderer_of(inner: Any) -> Any:
    return getattr(inner, "_renderer", None) or getattr(inner, "custom_renderer", None)


@contextmanager
def _numpy_state(random: np.random.RandomState) -> Iterator[None]:
    """NumPy's global generator is in this state inside, and as before outside; drawing inside moves ``random``."""
    before = np.random.get_state()
    np.random.set_state(random.get_state())
    try:
        yield
    finally:
        random.set_state(np.random.get_state())
        np.random.set_state(before)


class OwnNumpyState(gymnasium.Wrapper):
    """An environment that draws from NumPy's global generator, with a state of it for itself; its seed decides it."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._random = np.random.RandomState()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float64 bounds of float32 numbers
            # the environment makes new ones at every look, which have no seed
            self.action_space, self.observation_space = env.action_space, env.observation_space
        self._told: dict[str, Any] = {}
        self._oracles: Oracles | None = None
        if have_oracles(env.unwrapped):
            self.scripted_action = self._scripted_action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Begin an episode."""
        if seed is not None:
            self._random.seed(seed)
        with _numpy_state(self._random):
            seen, self._told = self.env.reset(seed=seed, options=options)
        self._oracles = None
        return seen, self._told

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """One step."""
        with _numpy_state(self._random):
            *seen, self._told = self.env.step(action)
        return *seen, self._told

    def _scripted_action(self) -> np.ndarray:
        """What OGBench's oracles do, from here on until the episode ends."""
        with _numpy_state(self._random):
            self._oracles = self._oracles or Oracles(self)
            return self._oracles.action(self._told)

    def close(self) -> None:
        """Close the environment and its pictures."""
        if (renderer := _renderer_of(self.unwrapped)) is not None:
            renderer.close()
        super().close()
