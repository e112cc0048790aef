"""Backend ``robotics``: Gymnasium-Robotics, arms, hands and mazes with goals in the observation, drawn by us.

Its arms and hands cannot be made on MuJoCo 3.11 and newer: `worldkit.envs.apart`.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium

from ...errors import MissingExtraError
from ..apart import apart_hint, require_apart
from ..mujoco import Drawn, import_mujoco, without_screen
from ..registry import unknown_env
from .registered import made


def ids() -> list[str]:
    """All its environments, the newest version of each."""
    without_screen()
    with contextlib.redirect_stderr(io.StringIO()):  # what changed in which version, at every import
        package = require_apart("gymnasium_robotics", "robotics", "Gymnasium-Robotics")
    version = import_mujoco("robotics", "Gymnasium-Robotics").__version__
    if tuple(int(part) for part in version.split(".")[:2]) >= (3, 11):
        raise MissingExtraError(f"Gymnasium-Robotics cannot be used with mujoco {version}. {apart_hint('robotics')}")
    gymnasium.register_envs(package)
    newest: dict[str, Any] = {}
    for spec in gymnasium.registry.values():
        if str(spec.entry_point).startswith("gymnasium_robotics."):
            if spec.name not in newest or (spec.version or 0) > (newest[spec.name].version or 0):
                newest[spec.name] = spec
    return [spec.id for spec in newest.values()]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """An environment of the package, ``"FetchPush-v4"``; the state is observation, achieved and desired goal."""
    known = ids()
    if env_id not in gymnasium.registry:
        raise unknown_env(env_id, known, "robotics")
    env = made(env_id, "robotics", **options)
    if not isinstance(env, Drawn):
        return env
    if hasattr(env.unwrapped, "maze"):  # from above, else the walls hide who walks there
        return Drawn(env.env, {"elevation": -89.9, "azimuth": 90.0})
    kitchen = getattr(env.unwrapped, "robot_env", None)
    return env if kitchen is None else Drawn(env.env, kitchen.mujoco_renderer.default_cam_config)
