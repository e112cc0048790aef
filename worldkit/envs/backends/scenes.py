"""Backend ``scenes``: solid things in 3-D by PyBullet, with instance masks and all that is true of every object.

A stand-in for OBJ3D, whose data cannot be made here: the same kind of scene (a ball rolls into cubes, balls and
cylinders that stand on a floor), with our own objects, colours, camera and physics, so numbers cannot be compared with
it.

``scenes/throw``: as OBJ3D's; an action pushes the ball along the floor, and the scripted one does not. ``scenes/push``:
a hand (the action is its velocity) pushes the red thing to a goal; the scripted one goes behind it and pushes.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ...errors import ConfigError, require_extra
from ..registry import unknown_env

SHAPES = ("cube", "ball", "cylinder")
COLOURS = {"red": (220, 60, 50), "green": (70, 180, 80), "blue": (60, 100, 220), "yellow": (230, 190, 50),
           "purple": (150, 80, 200), "cyan": (70, 190, 200), "orange": (230, 130, 40)}
WHITE, FLOOR, GOAL = (240, 240, 240), (150, 150, 155), (120, 165, 120)
STATE = 14
"""Numbers per object: whether it is there, position (3), rotation (quaternion), velocity (3), turning (3)."""


class Scene(gymnasium.Env):
    """Things on a floor. Observation: `STATE` numbers for each of the things, float32, 0 where there is none.

    Number 0 is what an action moves. ``info["objects"]`` names shape, colour and size of each. Metres and seconds.

    Args:
        objects: Least and most things besides number 0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}
    draw_size = (256, 256)
    _substeps, _rate = 10, 250.0

    def __init__(self, *, objects: tuple[int, int] = (3, 5)):
        if not 1 <= objects[0] <= objects[1] < len(COLOURS):
            raise ConfigError(f"objects is a least and a most number, from 1 to {len(COLOURS) - 1}, got {objects}")
        self.render_mode, self._most, self._least = "rgb_array", objects[1], objects[0]
        self._bullet = _import_pybullet()
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, ((1 + self._most) * STATE,), np.float32)
        self._world: int | None = None
        self._pictures: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def begin(self) -> None:
        """Put things on the floor."""
        raise NotImplementedError

    def act(self, action: np.ndarray) -> None:
        """What an action does, before each small step of the physics."""
        raise NotImplementedError

    def judge(self) -> tuple[float, bool]:
        """Reward, and whether it is over."""
        return 0.0, False

    def scripted_action(self) -> np.ndarray:
        """What a good player does."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode in a world of its own: nothing of an earlier one is left in its contacts."""
        super().reset(seed=seed)
        self.close()
        self._world = self._bullet.connect(self._bullet.DIRECT)
        self._end = weakref.finalize(self, _disconnect, self._bullet, self._world)
        self._call("setGravity", 0, 0, -9.81)
        self._call("setTimeStep", 1 / self._rate)
        self._bodies, self._told = [], []
        self._floor = self._body("cube", FLOOR, (0, 0, -0.5), (20, 20, 0.5), 0.0)
        self.begin()
        return self._look(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """A twenty-fifth of a second."""
        action = np.clip(np.asarray(action, np.float64), -1, 1)
        for _ in range(self._substeps):
            self.act(action)
            self._call("stepSimulation")
        reward, over = self.judge()
        return self._look(), reward, over, False, self._info()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self._world is None:
            raise gymnasium.error.ResetNeeded("the scene has not begun: call reset()")
        return getattr(self._bullet, name)(*arguments, physicsClientId=self._world, **options)

    def _body(self, shape: str, colour: Any, place: Any, half: Any, mass: float, solid: bool = True) -> int:
        """A thing; ``half`` are half its sides, or its radius and half its height."""
        bullet = self._bullet
        kind = {"cube": bullet.GEOM_BOX, "ball": bullet.GEOM_SPHERE, "cylinder": bullet.GEOM_CYLINDER}[shape]
        sizes = {"halfExtents": half} if shape == "cube" else {"radius": half[0]}
        tall, long = ({"height": 2 * half[2]}, {"length": 2 * half[2]}) if shape == "cylinder" else ({}, {})
        touched = self._call("createCollisionShape", kind, **sizes, **tall) if solid else -1
        seen = self._call("createVisualShape", kind, rgbaColor=[*np.divide(colour, 255), 1], **sizes, **long)
        body = self._call("createMultiBody", mass, touched, seen, place)
        self._call("changeDynamics", body, -1, lateralFriction=0.5, rollingFriction=0.002, spinningFriction=0.002,
                   restitution=0.4)
        return body

    def thing(self, shape: str, colour: str | tuple[int, int, int], xy: Any, size: float, mass: float = 1.0) -> None:
        """Add a thing that stands on the floor; ``size`` is half its side, or its radius."""
        colours = COLOURS[colour] if isinstance(colour, str) else colour
        self._bodies.append(self._body(shape, colours, (*xy, size), (size,) * 3, mass))
        self._told.append({"shape": shape, "colour": colour if isinstance(colour, str) else "white", "size": size})

    def some_things(self, colours: list[str]) -> None:
        """Add three to five things, or as many as were asked for, that do not touch; the colours are theirs in turn."""
        count, places = int(self.np_random.integers(self._least, self._most + 1)), [self.place(0)]
        for number in range(count):
            for _ in range(100):
                xy = self.np_random.uniform((-1.3, -0.9), (1.3, 1.3))
                if min(np.hypot(*(xy - other)) for other in places) > 0.8:
                    break
            places.append(xy)
            size = float(self.np_random.uniform(0.2, 0.32))
            self.thing(SHAPES[self.np_random.integers(3)], colours[number], xy, size)

    def place(self, number: int) -> np.ndarray:
        """x and y of a thing."""
        return np.array(self._call("getBasePositionAndOrientation", self._bodies[number])[0][:2])

    def _look(self) -> np.ndarray:
        self._pictures = {}
        state = np.zeros((1 + self._most, STATE), np.float32)
        for number, body in enumerate(self._bodies):
            place, rotation = self._call("getBasePositionAndOrientation", body)
            velocity, turning = self._call("getBaseVelocity", body)
            state[number] = [1, *place, *rotation, *velocity, *turning]
        return state.reshape(-1)

    def _info(self) -> dict[str, Any]:
        return {"objects": [dict(told) for told in self._told]}

    def _picture(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, four samples per pixel, and which body a pixel shows."""
        if (height, width) not in self._pictures:
            view = self._bullet.computeViewMatrix([0, -2.9, 2.9], [0, 0.0, 0.0], [0, 0, 1])
            lens = self._bullet.computeProjectionMatrixFOV(50, width / height, 0.1, 30)
            _, _, colours, _, bodies = self._call(
                "getCameraImage", 2 * width, 2 * height, view, lens, shadow=0, lightDirection=[2, -3, 5],
                renderer=self._bullet.ER_TINY_RENDERER)
            fine = np.reshape(colours, (height, 2, width, 2, 4))[..., :3].astype(np.float32)
            number = np.zeros(max([self._floor, *self._bodies]) + 2, np.uint8)  # nothing is -1, and so the last
            number[self._bodies] = np.arange(1, 1 + len(self._bodies))
            masks = number[np.reshape(bodies, (2 * height, 2 * width))[::2, ::2]]
            self._pictures[height, width] = (fine.mean((1, 3)) + 0.5).astype(np.uint8), masks
        return self._pictures[height, width]

    def masks(self, height: int, width: int) -> np.ndarray:
        """Which thing a pixel shows: 0 none, else 1 + its number; ``[H, W]``."""
        return self._picture(height, width)[1].copy()

    def draw(self, height: int, width: int) -> np.ndarray:
        """The scene, uint8 ``[H, W, 3]``."""
        return self._picture(height, width)[0].copy()

    def render(self) -> np.ndarray:
        """The scene."""
        return self.draw(*self.draw_size)

    def close(self) -> None:
        """End the world."""
        if self._world is not None:
            self._end()
            self._world = None


class Throw(Scene):
    """A ball is thrown into things that stand about."""

    def begin(self) -> None:
        left = 1 if self.np_random.random() < 0.5 else -1
        colours = list(self.np_random.permutation(list(COLOURS)))
        self.thing("ball", colours.pop(), (left * self.np_random.uniform(1.2, 1.6), self.np_random.uniform(-1.3, -1.0)),
                   float(self.np_random.uniform(0.2, 0.28)), 2.0)
        self.some_things(colours)
        aim = self.place(int(self.np_random.integers(1, len(self._bodies)))) - self.place(0)
        away = aim / np.hypot(*aim) * self.np_random.uniform(2.5, 4.5)
        self._call("resetBaseVelocity", self._bodies[0], [*away, 0])

    def act(self, action: np.ndarray) -> None:
        if action.any():
            middle = self._call("getBasePositionAndOrientation", self._bodies[0])[0]
            self._call("applyExternalForce", self._bodies[0], -1, [*(10 * action), 0], middle, self._bullet.WORLD_FRAME)

    def scripted_action(self) -> np.ndarray:
        return np.zeros(2, np.float32)


class Push(Scene):
    """Push the red thing onto the goal, a disc on the floor. ``info`` has ``is_success``."""

    _near = 0.2

    def begin(self) -> None:
        self.thing("cylinder", WHITE, self.np_random.uniform((-1.3, -1.3), (1.3, -1.1)), 0.15, 20.0)
        others = [name for name in COLOURS if name != "red"]
        self.some_things(["red", *self.np_random.permutation(others)])
        self._goal = self.np_random.uniform((-1.2, -0.8), (1.2, 1.2))
        self._body("cylinder", GOAL, (*self._goal, 0.002), (0.3, 0.3, 0.002), 0.0, solid=False)

    def act(self, action: np.ndarray) -> None:
        place = self.place(0)
        velocity = np.where((abs(place) > 1.9) & (np.sign(place) == np.sign(action)), 0, 2 * action)
        self._call("resetBaseVelocity", self._bodies[0], [*velocity, 0], [0, 0, 0])

    def judge(self) -> tuple[float, bool]:
        away = float(np.hypot(*(self.place(1) - self._goal)))
        return -away, away < self._near

    def _info(self) -> dict[str, Any]:
        return {**super()._info(), "goal": self._goal.copy(), "is_success": self.judge()[1]}

    def scripted_action(self) -> np.ndarray:
        hand, thing = self.place(0), self.place(1)
        way = (self._goal - thing) / max(np.hypot(*(self._goal - thing)), 1e-6)
        behind = thing - 0.55 * way
        side = np.array([-way[1], way[0]])
        if (hand - thing) @ way > -0.2 and abs((hand - thing) @ side) < 0.6:  # in front of it: round it first
            aim = thing + 0.9 * side * (1 if (hand - thing) @ side >= 0 else -1) - 0.6 * way
        elif abs((hand - thing) @ side) > 0.12:
            aim = behind
        else:
            aim = thing
        return np.clip(3 * (aim - hand), -1, 1).astype(np.float32)


def _disconnect(bullet: Any, world: int) -> None:
    with contextlib.suppress(bullet.error):
        bullet.disconnect(world)


def _import_pybullet() -> Any:
    """PyBullet, without the line that it prints when it is imported."""
    quiet, kept = os.open(os.devnull, os.O_WRONLY), [os.dup(1), os.dup(2)]
    try:
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        return require_extra("pybullet", "scenes", "an environment of 'scenes'")
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for file in (quiet, *kept):
            os.close(file)


_SCENES: dict[str, tuple[type[Scene], int]] = {"scenes/throw": (Throw, 100), "scenes/push": (Push, 200)}


def ids() -> list[str]:
    """The scenes."""
    _import_pybullet()
    return list(_SCENES)


def make(env_id: str, *, max_episode_steps: int | None = None, **options: Any) -> gymnasium.Env:
    """A scene, cut off after 100 (``throw``) or 200 (``push``) steps, or as many as you say."""
    named = env_id if env_id.startswith("scenes/") else f"scenes/{env_id}"
    if named not in _SCENES:
        raise unknown_env(env_id, list(_SCENES), "scenes")
    kind, limit = _SCENES[named]
    return TimeLimit(kind(**options), max_episode_steps or limit)
