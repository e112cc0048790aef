"""Backend ``gymnasium``: classic control, Box2D, MuJoCo, and what else is registered with Gymnasium.

Gymnasium's own MuJoCo pictures depend on what else was rendered in the process (a closed environment turns the others
black; the first episode frames the camera), so those environments are drawn by `worldkit.envs.mujoco`.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from ...errors import ConfigError, MissingExtraError, install_hint, require_extra
from ..registry import backend_of, unknown_env

_OTHERS = ("ale_py.", "gymnasium_robotics.")  # whose old ids nobody claims
_NO_PICTURES = ("tabular/", "phys2d/", "GymV21", "GymV26", "toy_text")


def ids() -> list[str]:
    """Gymnasium's own environments, the newest version of each, and others' that no backend claims."""
    newest: dict[str, Any] = {}
    for spec in gymnasium.registry.values():
        if not spec.entry_point or spec.id.startswith(_NO_PICTURES) or str(spec.entry_point).startswith(_OTHERS):
            continue
        if backend_of(spec.id).name == "gymnasium":
            name = f"{spec.namespace or ''}/{spec.name}"
            if name not in newest or (spec.version or 0) > (newest[name].version or 0):
                newest[name] = spec
    return [spec.id for spec in newest.values()]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """``gymnasium.make``, rendering to arrays.

    Raises:
        UnknownComponentError: for an id that nobody registered.
        MissingExtraError: if a package is missing.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:  # "package:Env-v0"
            importlib.import_module(module)
        spec = gymnasium.spec(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"environment '{env_id}' needs {error.name}: pip install {error.name}") from error
    except gymnasium.error.Error as error:
        more = "; ids of other packages need that package imported first, or named: 'package:Env-v0'"
        raise unknown_env(name, ids(), "gymnasium", more) from error
    mujoco = str(spec.entry_point).startswith("gymnasium.envs.mujoco")
    extra = "mujoco" if mujoco else "envs"
    if mujoco:
        from ..mujoco import import_mujoco

        import_mujoco("mujoco", f"environment '{env_id}'")
    elif str(spec.entry_point).startswith("gymnasium.envs.classic_control"):
        require_extra("pygame", "envs", f"environment '{env_id}'")  # else it is missed at the first picture only
    return made(name, extra, **options)


def made(env_id: str, extra: str, **options: Any) -> gymnasium.Env:
    """An environment of Gymnasium's registry, drawn by us if it is one of MuJoCo."""
    try:
        if _takes(env_id, "render_mode"):
            options.setdefault("render_mode", "rgb_array")
        env = gymnasium.make(env_id, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtraError(f"environment '{env_id}' needs more: {error}. {install_hint(extra)}") from error
    except AssertionError as error:
        raise ConfigError(f"environment '{env_id}' cannot be made with {options}: {error}") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"environment '{env_id}' does not take all of {options}: {error}") from error
    if type(getattr(env.unwrapped, "model", None)).__name__ == "MjModel":
        from ..mujoco import Drawn

        return Drawn(env)
    return env


def _takes(env_id: str, option: str) -> bool:
    """Whether an environment has an option; many of people's own, whose observations are pictures, draw nothing."""
    entry = gymnasium.spec(env_id).entry_point
    taken = inspect.signature(load_env_creator(entry) if isinstance(entry, str) else entry).parameters.values()
    return any(one.name == option or one.kind is one.VAR_KEYWORD for one in taken)
