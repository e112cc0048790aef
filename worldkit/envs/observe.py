"""What worldkit sees of an environment: its pixels, and its state."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ..errors import ConfigError
from ..pictures import check_resize, grey
from .pace import unpack_reset, unpack_step
from .resize import resize

OBSERVATIONS = ("dict", "keys", "pixels", "state")


def check_options(size: Any, observation: str) -> None:
    """Refuse a size that is none, and an unknown kind of observation.

    Raises:
        ConfigError: naming the option.
    """
    sides = (size, size) if isinstance(size, int) else size
    whole = isinstance(sides, (tuple, list)) and all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
    if size is not None and not (whole and len(sides) == 2 and (min(sides) > 0 or tuple(sides) == (0, 0))):
        raise ConfigError(f"size is a number of pixels, (height, width), or None for the picture itself (0: no picture)"
                          f", got {size!r}")
    if observation not in OBSERVATIONS:
        raise ConfigError(f"observation must be {', '.join(map(repr, OBSERVATIONS))}, got {observation!r}")
    if observation == "pixels" and sides == (0, 0):
        raise ConfigError("size=0 asks for no picture, and observation='pixels' for nothing else: take observation="
                          "'dict' or 'keys'")


class Observe(gymnasium.Wrapper, RecordConstructorArgs):
    """Gives an environment's pixels and its state, in plain spaces and of plain types.

    The picture is, in this order, what the environment draws at a size (``draw(height, width)``), its observation if
    that is a picture (uint8 ``[H, W, 3]``), what it renders, or the one picture in an observation that is a dict. The
    state is its observation otherwise; of a dict, the numbers in it, one behind the other, or each under its own key.
    Text (MiniGrid's mission) goes into ``info``.

    Args:
        env: Any Gymnasium environment; to be rendered it needs ``render_mode="rgb_array"``.
        size: Height and width of the pixels; one number for squares; None for what the environment gives; 0: no
            picture, and nothing is drawn.
        observation: ``"dict"``, ``"keys"``, ``"pixels"`` or ``"state"``; see `worldkit.envs.make_env`.
        grey: Pixels have one channel.
        resize: What becomes of a picture of another shape, ``"stretch"``, ``"pad"`` or ``"crop"``.
    Raises:
        ConfigError: if there is no picture, or no state, where one is asked for.
    """

    def __init__(self, env: Any, *, size: int | tuple[int, int] | None = 64, observation: str = "dict",
                 grey: bool = False, resize: str = "stretch"):
        check_options(size, observation)
        self._resize = check_resize(resize)
        RecordConstructorArgs.__init__(self, size=size, observation=observation, grey=grey, resize=resize)
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(f"an environment is a gymnasium.Env, got {type(env).__name__}; make_env(id) makes one")
        super().__init__(env)
        self._made_by: Any = None
        self._kind, self._space, self._grey = observation, env.observation_space, bool(grey)
        self._drawn = env.has_wrapper_attr("draw")
        self._rendered: np.ndarray | None = None
        self.metadata = {**env.metadata, "render_modes": ["rgb_array"]}
        self._seen = is_picture(self._space)
        self._inside = None if self._drawn or env.render_mode == "rgb_array" else picture_inside(self._space)
        if self._inside is not None:
            self._space = spaces.Dict({name: part for name, part in self._space.items() if name != self._inside})
        self._blind = observation == "state" or size in (0, (0, 0), [0, 0])
        if not self._blind and not (self._drawn or self._seen or self._inside or env.render_mode == "rgb_array"):
            raise ConfigError(
                f"{env} gives no pixels: its observation is {self._space}, and its render mode is {env.render_mode!r}. "
                "Make it with render_mode='rgb_array', or ask for no picture, size=0 (or observation='state'); "
                "a preset that sees vectors alone: worldkit train-agent dreamer-v3-vectors"
            )
        if size is not None:
            self._size = (size, size) if isinstance(size, int) else tuple(size)
        else:
            self._size = None if self._blind else self._own_size()
        self._state = None if observation == "pixels" or self._seen else state_space(self._space)
        if self._blind and self._state is None:
            raise ConfigError(f"{env} has no state besides its picture, no numbers to observe: ask for observation="
                              "'pixels', and act with a model that sees pictures (not of a preset for vectors)")
        self._keys = key_spaces(self._space) if observation == "keys" and self._state is not None else {}
        if observation == "state":
            self.observation_space = self._state
        else:
            seen: dict[str, spaces.Space] = {}
            if not self._blind:
                seen = {"pixels": spaces.Box(0, 255, (*self._size, 1 if self._grey else 3), np.uint8)}
            if observation == "keys":
                seen |= {name: part for name, (_, _, part) in self._keys.items()}
            elif self._state is not None:
                seen["state"] = self._state
            self.observation_space = seen["pixels"] if observation == "pixels" else spaces.Dict(seen)

    def _own_size(self) -> tuple[int, int]:
        """The size of its picture, as it is."""
        if self._seen:
            return self._space.shape[:2]
        if self._inside is not None:
            return self.env.observation_space[self._inside].shape[:2]
        if self._drawn:
            return self.env.get_wrapper_attr("draw_size")
        self.env.reset()
        return np.shape(self.env.render())[:2]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the same seed begins the same one."""
        native, info = unpack_reset(self.env, self.env.reset(seed=seed, options=options))
        self._rendered = None
        return self._observe(native), self._told(native, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated and info; plain floats and bools."""
        native, reward, terminated, truncated, info = unpack_step(self.env, self.env.step(action))
        self._rendered = None
        return self._observe(native), float(reward), bool(terminated), bool(truncated), self._told(native, info)

    def render(self) -> Any:
        """The picture in the environment's own size.

        It is drawn once per step: rendering moves LunarLander's sparks on, so looking twice would change what is seen.
        """
        if self._rendered is None:
            self._rendered = self.env.render()
        return np.array(self._rendered)

    @property
    def spec(self) -> Any:
        """How to make it once more: ``env.spec.make()``; what `make_env` was told."""
        return self._made_by or super().spec

    def made_by(self, spec: Any) -> None:
        """Note how it was made."""
        self._made_by = spec

    def _observe(self, native: Any) -> Any:
        state = None if self._state is None else as_state(self._space, self._state, native)
        if self._kind == "state":
            return state
        seen = {} if self._blind else {"pixels": self._pixels(native)}
        if self._kind == "pixels":
            return seen["pixels"]
        if self._kind == "keys":
            return seen | {name: key_value(native, path, own, part) for name, (path, own, part) in self._keys.items()}
        return seen if state is None else seen | {"state": state}

    def _pixels(self, native: Any) -> np.ndarray:
        picture = self._coloured(native)
        return grey(picture) if self._grey else picture

    def _coloured(self, native: Any) -> np.ndarray:
        if self._drawn:
            size = self._size if self._resize == "stretch" else self.env.get_wrapper_attr("draw_size")
            return resize(self.env.get_wrapper_attr("draw")(*size), *self._size, self._resize)
        picture = native if self._seen else self.render() if self._inside is None else native[self._inside]
        if getattr(picture, "dtype", None) != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ConfigError(f"{self.env} rendered {type(picture).__name__}, not a picture (uint8 [H, W, 3])")
        return resize(picture, *self._size, self._resize)

    def _told(self, native: Any, info: dict[str, Any]) -> dict[str, Any]:
        if isinstance(native, dict):
            return {**info, **{name: value for name, value in native.items() if isinstance(value, str)}}
        return info


def masks_of(env: gymnasium.Env, observation: Any) -> np.ndarray | None:
    """Which thing a pixel of an observation shows, ``[H, W]``; None where the environment has no ``masks``."""
    if not env.has_wrapper_attr("masks"):
        return None
    pixels = observation.get("pixels") if isinstance(observation, dict) else observation
    if pixels is None:
        return None
    return env.get_wrapper_attr("masks")(*pixels.shape[:2])


def is_picture(space: spaces.Space) -> bool:
    """Whether a space holds colour pictures: uint8 ``[H, W, 3]`` up to 255."""
    return (
        isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] == 3
        and min(space.shape[:2]) > 8 and bool((space.high == 255).all())
    )


def picture_inside(space: spaces.Space) -> str | None:
    """The key of the picture in a dict, if there is just one."""
    names = [name for name, part in space.items() if is_picture(part)] if isinstance(space, spaces.Dict) else []
    return names[0] if len(names) == 1 else None


def _numbers(space: spaces.Space) -> spaces.Space | None:
    """Of a dict (at any depth), the parts that are numbers; None if there are none."""
    if isinstance(space, spaces.Dict):
        parts = {name: part for name, old in space.spaces.items() if (part := _numbers(old)) is not None}
        return spaces.Dict(parts) if parts else None
    known = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    return space if isinstance(space, known) else None


def state_space(space: spaces.Space) -> spaces.Box | spaces.Discrete | None:
    """The space of the state: the numbers of an observation; None where it has none."""
    numbers = _numbers(space)
    return spaces.flatten_space(numbers) if isinstance(numbers, spaces.Dict) else numbers


def as_state(space: spaces.Space, state: spaces.Space, native: Any) -> Any:
    """The numbers of an observation, as an array of its own."""
    if isinstance(space, spaces.Dict):
        return spaces.flatten(_numbers(space), native).astype(state.dtype)
    return np.array(native, dtype=state.dtype) if isinstance(state, spaces.Box) else native


Part = tuple[tuple[str, ...], spaces.Space, spaces.Space]
"""Keys that lead to a part of an observation, its own space, and the space of what is given of it."""


def key_spaces(space: spaces.Space, path: tuple[str, ...] = ()) -> dict[str, Part]:
    """The numbers of an observation, each under its own name; what is no dict is called "observation".

    Classes stay whole numbers, all others become vectors, float32. Keys within keys are joined: ``"robot_arm"``.

    Example:
        >>> space = spaces.Dict({"arm": spaces.Box(-1, 1, (2, 3)), "door": spaces.Discrete(2), "task": spaces.Text(9)})
        >>> {name: part for name, (_, _, part) in key_spaces(space).items()}
        {'arm': Box(-1.0, 1.0, (6,), float32), 'door': Discrete(2)}
    """
    if isinstance(space, spaces.Dict):
        found: dict[str, Part] = {}
        for key, part in space.spaces.items():
            for name, entry in key_spaces(part, (*path, key)).items():
                if name in found or name == "pixels":
                    raise ConfigError(f"two parts of the observation {space} would be called '{name}': ask for "
                                      "observation='dict', which puts all numbers in one vector")
                found[name] = entry
        return found
    if _numbers(space) is None or is_picture(space):
        return {}
    name = "_".join(path).replace(".", "_") or "observation"
    if isinstance(space, spaces.Discrete):
        return {name: (path, space, spaces.Discrete(int(space.n)))}
    flat = spaces.flatten_space(space)
    low, high = (np.asarray(x, np.float32) for x in (flat.low, flat.high))
    return {name: (path, space, spaces.Box(low, high, dtype=np.float32))}


def key_value(native: Any, path: tuple[str, ...], own: spaces.Space, part: spaces.Space) -> Any:
    """The part of an observation that `key_spaces` found."""
    for key in path:
        native = native[key]
    if isinstance(own, spaces.Discrete):
        return int(native) - int(own.start)
    return spaces.flatten(own, native).astype(np.float32)
