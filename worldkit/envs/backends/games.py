"""Backend ``games``: three small games of worldkit's own, on a grid of coloured squares. They need no package.

``games/catch``: a ball falls, the paddle catches it (1) or not (-1); ten balls (``grid=6``: fewer, larger squares).
``games/breakout``: a ball, a paddle, bricks (1 each); over when the ball is lost or the bricks are gone.
``games/freeway``: from the bottom to the top (1) between cars, which send back to the start. Actions: 0 stays, 1 and 2
are left and right, or up and down.

In the spirit of bsuite's catch and MinAtar; rules, sizes and colours are our own, so scores cannot be compared.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import ConfigError
from ..registry import unknown_env

GRID = 16
COLOURS = np.array([(24, 26, 36), (240, 240, 240), (90, 200, 120), (230, 90, 80), (80, 140, 240), (240, 180, 60),
                    (170, 110, 220), (60, 62, 76)], np.uint8)
"""0 background, 1 ball, 2 what the player moves, 3 to 6 things, 7 road."""


class Game(gymnasium.Env):
    """A game on a grid; a subclass says how it begins, what an action does and what lies where.

    Attributes:
        values: The state, whole numbers; all that is seen depends on it and on nothing else.
        limit: Steps after which an episode is cut off.
        grid: Squares of a side.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    draw_size = (256, 256)
    limit = 500
    grid = GRID
    values: np.ndarray
    _count: int
    """How many numbers the state has."""

    def __init__(self) -> None:
        self.render_mode = "rgb_array"
        self.action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(-64, 64, (self._count,), np.float32)
        self._steps, self._over = 0, True

    def begin(self) -> np.ndarray:
        """The first state of an episode."""
        raise NotImplementedError

    def act(self, action: int) -> tuple[float, bool]:
        """Change the state; gives the reward and whether the game is over."""
        raise NotImplementedError

    def cells(self) -> np.ndarray:
        """What lies where: number of the colour, ``[grid, grid]``."""
        raise NotImplementedError

    def scripted_action(self) -> int:
        """What a good player does."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._steps, self._over, self.values = 0, False, np.asarray(self.begin(), np.int64)
        return self.values.astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One move."""
        if not self.action_space.contains(action):
            raise ValueError(f"an action of this game is 0, 1 or 2, got {action!r}")
        if self._over:
            raise gymnasium.error.ResetNeeded("the game is over, or has not begun: call reset()")
        self._steps += 1
        reward, self._over = self.act(int(action))
        return self.values.astype(np.float32), reward, self._over, self._steps >= self.limit, {}

    def draw(self, height: int, width: int) -> np.ndarray:
        """The grid at a size, uint8 ``[H, W, 3]``."""
        rows, columns = (np.arange(side) * self.grid // side for side in (height, width))
        return COLOURS[self.cells()[rows][:, columns]]

    def render(self) -> np.ndarray:
        """The grid, 16 pixels per square."""
        return self.draw(*self.draw_size)


def _towards(at: int, target: int) -> int:
    return 0 if at == target else 1 if target < at else 2


class Catch(Game):
    """State: row and column of the ball, column of the paddle's middle, balls so far.

    Args:
        grid: Squares of a side. Fewer are larger, and a ball falls for fewer steps: easier to see, sooner to learn.
        paddle: Width of the paddle, an odd number of squares.
    """

    _count, _balls = 4, 10

    def __init__(self, *, grid: int = GRID, paddle: int = 3) -> None:
        if isinstance(grid, bool) or not isinstance(grid, int) or not 4 <= grid <= 64:
            raise ConfigError(f"grid is a number of squares from 4 to 64, got {grid!r}")
        if isinstance(paddle, bool) or not isinstance(paddle, int) or not 1 <= paddle < grid or paddle % 2 == 0:
            raise ConfigError(f"paddle is an odd number of squares below grid={grid}, got {paddle!r}")
        super().__init__()
        self.grid, self._reach = grid, paddle // 2

    def begin(self) -> np.ndarray:
        return np.array([0, self.np_random.integers(self.grid), self.grid // 2, 0])

    def act(self, action: int) -> tuple[float, bool]:
        row, column, paddle, balls = self.values.tolist()
        paddle = int(np.clip(paddle + (0, -1, 1)[action], self._reach, self.grid - 1 - self._reach))
        row, reward = row + 1, 0.0
        if row == self.grid - 1:
            reward = 1.0 if abs(column - paddle) <= self._reach else -1.0
            row, column, balls = 0, int(self.np_random.integers(self.grid)), balls + 1
        self.values = np.array([row, column, paddle, balls])
        return reward, balls == self._balls

    def cells(self) -> np.ndarray:
        row, column, paddle, _ = self.values
        grid = np.zeros((self.grid, self.grid), np.int64)
        grid[self.grid - 1, paddle - self._reach : paddle + self._reach + 1] = 2
        grid[row, column] = 1
        return grid

    def scripted_action(self) -> int:
        return _towards(int(self.values[2]), int(np.clip(self.values[1], self._reach, self.grid - 1 - self._reach)))


class Breakout(Game):
    """State: row, column and direction of the ball, column of the paddle's left end, then the bricks (0 or 1)."""

    _rows, _bricks, _paddle = 3, GRID // 2, 4
    _count = 5 + _rows * _bricks

    def begin(self) -> np.ndarray:
        left = int(self.np_random.integers(2))
        column = int(self.np_random.integers(GRID))
        return np.array([5, column, 1, -1 if left else 1, GRID // 2 - 2, *[1] * (self._rows * self._bricks)])

    def act(self, action: int) -> tuple[float, bool]:
        row, column, down, right, paddle = self.values[:5].tolist()
        bricks = self.values[5:].reshape(self._rows, self._bricks).copy()
        paddle = int(np.clip(paddle + (0, -1, 1)[action], 0, GRID - self._paddle))
        reward = 0.0
        if not 0 <= column + right < GRID:
            right = -right
        if row + down < 0:
            down = -down
        ahead = row + down - 2, (column + right) // 2
        if 0 <= ahead[0] < self._rows and bricks[ahead]:
            bricks[ahead], reward, down = 0, 1.0, -down
        elif row + down == GRID - 1 and paddle <= column + right < paddle + self._paddle:
            down = -1
            if column + right in (paddle, paddle + self._paddle - 1):  # the ends of the paddle throw outwards
                right = -1 if column + right == paddle else 1
                right = right if 0 <= column + right < GRID else -right
        row, column = max(0, row + down), column + right
        self.values = np.array([row, column, down, right, paddle, *bricks.reshape(-1)])
        return reward, row >= GRID - 1 or not bricks.any()

    def cells(self) -> np.ndarray:
        row, column, _, _, paddle = self.values[:5]
        grid = np.zeros((GRID, GRID), np.int64)
        bricks = self.values[5:].reshape(self._rows, self._bricks)
        grid[2 : 2 + self._rows] = np.repeat(bricks * (3 + np.arange(self._rows)[:, None]), 2, axis=1)
        grid[GRID - 1, paddle : paddle + self._paddle] = 2
        grid[row, column] = 1
        return grid

    def scripted_action(self) -> int:
        return _towards(int(self.values[4]), int(np.clip(self.values[1] + self.values[3] - 1, 0, GRID - self._paddle)))


class Freeway(Game):
    """State: row of the player, then for every lane the car's column and its speed (squares per step)."""

    _lanes, limit = 12, 250
    _count = 1 + 2 * _lanes
    _column = GRID // 2

    def begin(self) -> np.ndarray:
        cars = self.np_random.integers(GRID, size=self._lanes)
        speeds = self.np_random.choice([-2, -1, 1, 2], size=self._lanes)
        return np.array([GRID - 1, *cars, *speeds])

    def act(self, action: int) -> tuple[float, bool]:
        row, cars, speeds = int(self.values[0]), self.values[1 : 1 + self._lanes], self.values[1 + self._lanes :]
        row = int(np.clip(row + (0, -1, 1)[action], 1, GRID - 1))
        cars = (cars + speeds) % GRID
        lane, reward = row - 2, 0.0
        if 0 <= lane < self._lanes and (self._column - cars[lane]) % GRID < 2:
            row = GRID - 1
        elif row == 1:
            row, reward = GRID - 1, 1.0
        self.values = np.array([row, *cars, *speeds])
        return reward, False

    def cells(self) -> np.ndarray:
        grid = np.zeros((GRID, GRID), np.int64)
        grid[2 : 2 + self._lanes] = 7
        for lane, car in enumerate(self.values[1 : 1 + self._lanes]):
            grid[2 + lane, [car, (car + 1) % GRID]] = 3 + lane % 4
        grid[self.values[0], self._column] = 2
        return grid

    def scripted_action(self) -> int:
        lane = int(self.values[0]) - 3
        if not 0 <= lane < self._lanes:
            return 1
        car = (self.values[1 + lane] + self.values[1 + self._lanes + lane]) % GRID
        return 0 if (self._column - car) % GRID < 2 else 1


_GAMES = {"games/catch": Catch, "games/breakout": Breakout, "games/freeway": Freeway}


def ids() -> list[str]:
    """The games."""
    return list(_GAMES)


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """A game by its name, with or without ``games/``."""
    named = env_id if env_id.startswith("games/") else f"games/{env_id}"
    if named not in _GAMES:
        raise unknown_env(env_id, ids(), "games")
    return _GAMES[named](**options)
