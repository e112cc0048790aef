"""Backend ``pusht``: push a T into place, with pymunk's physics and our own drawing.

After the task of Diffusion Policy (a board of 512 x 512, a round pusher that is drawn towards a target, a T-shaped
block, a goal pose; reward: covered share of the goal / 0.95), written from its description: numbers of other PushT
environments cannot be compared with it. Actions are where the pusher shall go, (x, y) from -1 to 1 over the board, y
down. All that is drawn depends on the state alone.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ...errors import require_extra
from ..registry import unknown_env

BOARD = 512.0
GOAL = np.array([256.0, 256.0, math.pi / 4])
_SCALE = 30.0
_PARTS = ((-2.0, 0.0, 2.0, 1.0), (-0.5, 1.0, 0.5, 4.0))  # bar and stem of the T: x0, y0, x1, y1 in units of _SCALE
_RADIUS = 15.0
_COLOURS = {"board": (245, 245, 245), "goal": (150, 220, 160), "block": (110, 120, 150), "pusher": (70, 110, 230)}


class PushT(gymnasium.Env):
    """Push the T onto its goal.

    Observation: x and y of the pusher, x, y and angle (0 to 2 pi) of the T, float32. ``info``: ``coverage`` (share of
    the goal that is covered) and ``is_success``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    draw_size = (256, 256)
    _hertz, _substeps = 100, 10

    def __init__(self) -> None:
        self._pymunk = require_extra("pymunk", "pusht", "environment 'pusht'")
        self.render_mode = "rgb_array"
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        # a hard push moves a thing a little way over the edge, until the wall has pushed it back
        high = np.array([2 * BOARD] * 4 + [2 * math.pi], np.float32)
        self.observation_space = spaces.Box(np.array([-BOARD] * 4 + [0], np.float32), high, dtype=np.float32)
        self._goal = _inside_t(GOAL, *_grid(128, 128))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Pusher and T lie anywhere; ``options={"state": [x, y, block x, block y, angle]}`` says where."""
        super().reset(seed=seed)
        random = self.np_random.uniform
        drawn = [*random(50, 450, 2), *random(100, 400, 2), random(0, 2 * math.pi)]
        state = drawn if not options or "state" not in options else options["state"]
        self._build(np.asarray(state, float))
        self._hand = 0.0
        return self._state(), self._told()

    def _build(self, state: np.ndarray) -> None:
        """A new world: nothing of an earlier episode is left in its contacts."""
        pymunk = self._pymunk
        self._space = space = pymunk.Space()
        space.damping = 0.0
        corners = [(0, 0), (BOARD, 0), (BOARD, BOARD), (0, BOARD)]
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            space.add(pymunk.Segment(space.static_body, a, b, 5))
        self._pusher = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._pusher.position = tuple(state[:2])
        space.add(self._pusher, pymunk.Circle(self._pusher, _RADIUS))
        shapes = [[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in np.multiply(_PARTS, _SCALE).tolist()]
        moments = [pymunk.moment_for_poly(1.0, shape) for shape in shapes]
        self._block = pymunk.Body(2.0, sum(moments))
        parts = [pymunk.Poly(self._block, shape) for shape in shapes]
        for part in parts:
            part.friction = 1.0
        self._block.center_of_gravity = tuple(np.mean([part.center_of_gravity for part in parts], 0))
        self._block.angle = float(state[4])  # before the position: it turns about the centre of gravity
        self._block.position = tuple(state[2:4])
        space.add(self._block, *parts)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """A tenth of a second: the pusher is drawn to its target by a spring."""
        target = (np.clip(np.asarray(action, float), -1, 1) + 1) / 2 * BOARD
        for _ in range(self._substeps):
            velocity = np.array(self._pusher.velocity)
            pull = 100 * (target - np.array(self._pusher.position)) - 20 * velocity
            self._pusher.velocity = tuple(velocity + pull / self._hertz)
            self._space.step(1 / self._hertz)
        info = self._told()
        return self._state(), min(1.0, info["coverage"] / 0.95), info["is_success"], False, info

    def _state(self) -> np.ndarray:
        angle = self._block.angle % (2 * math.pi)
        state = np.array([*self._pusher.position, *self._block.position, angle], np.float32)
        return state.clip(self.observation_space.low, self.observation_space.high)

    def _told(self) -> dict[str, Any]:
        covered = _inside_t(self._pose, *_grid(128, 128)) & self._goal
        coverage = float(covered.sum() / self._goal.sum())
        return {"coverage": coverage, "is_success": coverage > 0.95}

    @property
    def _pose(self) -> np.ndarray:
        return np.array([*self._block.position, self._block.angle])

    def masks(self, height: int, width: int) -> np.ndarray:
        """Which thing a pixel shows: 0 the board, 1 the T, 2 the pusher; ``[H, W]``."""
        x, y = _grid(height, width)
        found = _inside_t(self._pose, x, y).astype(np.uint8)
        away = np.array(self._pusher.position)
        found[(x - away[0]) ** 2 + (y - away[1]) ** 2 <= _RADIUS**2] = 2
        return found

    def draw(self, height: int, width: int) -> np.ndarray:
        """The board, four samples per pixel, uint8 ``[H, W, 3]``."""
        fine = (2 * height, 2 * width)
        goal = _inside_t(GOAL, *_grid(*fine))
        number = np.where(goal, 1, 0)
        things = self.masks(*fine)
        number[things > 0] = things[things > 0] + 1
        colours = np.array(list(_COLOURS.values()), np.float32)
        return (colours[number].reshape(height, 2, width, 2, 3).mean((1, 3)) + 0.5).astype(np.uint8)

    def draw_goal(self, height: int, width: int) -> np.ndarray:
        """The board with the T on its goal; the pusher stays where it is."""
        place = self._block.position, self._block.angle
        self._block.angle, self._block.position = float(GOAL[2]), tuple(GOAL[:2])
        picture = self.draw(height, width)
        self._block.angle, self._block.position = place[1], place[0]
        return picture

    def goal_measures(self, goal: np.ndarray) -> dict[str, float | bool]:
        """How far the board is from a state: distances in units of the board (of 512), the angle in radians, the share
        of the T's place that it covers. ``success``: pusher and T together are less than 20 off, and the T is turned by
        less than 20 degrees (the criterion of DINO-WM's and LeWM's PushT)."""
        now = self._state()
        turned = abs((now[4] - goal[4] + math.pi) % (2 * math.pi) - math.pi)
        place = _inside_t(np.asarray(goal[2:], float), *_grid(128, 128))
        covered = _inside_t(self._pose, *_grid(128, 128)) & place
        return {
            "T distance": float(np.linalg.norm(now[2:4] - goal[2:4])), "T angle": float(turned),
            "T coverage": float(covered.sum() / max(1, place.sum())),
            "pusher distance": float(np.linalg.norm(now[:2] - goal[:2])),
            "success": bool(np.linalg.norm(now[:4] - goal[:4]) < 20 and turned < math.pi / 9),
        }

    def render(self) -> np.ndarray:
        """The board."""
        return self.draw(*self.draw_size)

    def scripted_action(self) -> np.ndarray:
        """Near-block play: the pusher heads for places around the T, and so pushes it about."""
        if self._hand <= 0:
            self._hand, middle = 8.0, np.array(self._block.local_to_world(self._block.center_of_gravity))
            self._aim = middle + self.np_random.normal(0, 70, 2)
        self._hand -= 1
        return np.clip(self._aim / BOARD * 2 - 1, -1, 1).astype(np.float32)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the middles of pixels, on the board."""
    y, x = np.meshgrid((np.arange(height) + 0.5) * BOARD / height, (np.arange(width) + 0.5) * BOARD / width,
                       indexing="ij")
    return x, y


def _inside_t(pose: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in a T of a pose (x, y, angle)."""
    dx, dy, c, s = x - pose[0], y - pose[1], math.cos(pose[2]), math.sin(pose[2])
    across, down = (c * dx + s * dy) / _SCALE, (c * dy - s * dx) / _SCALE
    inside = [(x0 <= across) & (across <= x1) & (y0 <= down) & (down <= y1) for x0, y0, x1, y1 in _PARTS]
    return inside[0] | inside[1]


def ids() -> list[str]:
    """The one environment."""
    require_extra("pymunk", "pusht", "PushT")
    return ["pusht"]


def make(env_id: str, *, max_episode_steps: int = 300, **options: Any) -> gymnasium.Env:
    """The environment, cut off after ``max_episode_steps``."""
    if env_id.removeprefix("pusht/").lower().removesuffix("-v0") not in ("pusht", ""):
        raise unknown_env(env_id, ["pusht"], "pusht")
    return TimeLimit(PushT(**options), max_episode_steps)
