"""Catch: a ball falls, a paddle moves below it; made on the spot, with actions, rewards and ends.

The game of ``make_env("games/catch")`` (`worldkit.envs.backends.games`) as a data set: same rules, same pictures.
Every step the ball falls by a square and the paddle, three squares wide, stays (action 0) or goes left or right (1, 2).
A ball at the bottom was caught (reward 1) or missed (-1), and the next falls from a column that chance decides. Ten
balls are an episode. Half of the episodes (0, 2, ...) are played at random, the others by a player that goes for the
ball and catches all it can reach.

Only whole numbers of numpy's generators are used, so every machine makes the same episodes; episode ``i`` of a split is
the same however many are made, and begins the same however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import track
from ..splits import SPLITS, check_split

GRID = 8
"""Squares of a side, unless told otherwise."""
LEAST_GRID, MOST_GRID = 4, 64
BALLS, REACH = 10, 1
"""Balls of an episode; squares of the paddle on either side of its middle."""
NUM_ACTIONS = 3
COLORS = np.array([(24, 26, 36), (240, 240, 240), (90, 200, 120)], np.uint8)
"""Of the ground, the ball and the paddle."""


@dataclass(frozen=True)
class CatchEpisodes:
    """``E`` episodes of ``T`` frames; what `generate_catch` returns. Row t of what is done is about frame t to t + 1.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        action: int64 ``[E, T]``, 0, 1 or 2: stay, left, right; the last row leads nowhere and is 0.
        reward: float32 ``[E, T]``, 1 for a ball caught, -1 for one missed, else 0.
        terminated: bool ``[E, T]``, true where the tenth ball is down.
        cell: int64 ``[E, T, 2, 2]``, (row, column) of the ball and of the paddle's middle.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    cell: np.ndarray
    first_episode: int = 0


def length(grid: int = GRID) -> int:
    """Frames of a whole episode: before the first ball falls, and after every step.

    Example:
        >>> length(8)
        71
    """
    return BALLS * (grid - 1) + 1


def simulate(split: str, first: int, num_episodes: int, num_frames: int, grid: int = GRID) -> dict[str, np.ndarray]:
    """Episodes ``first`` and following of a split without their frames: the other fields of `CatchEpisodes` by name."""
    whole, numbers = length(grid), range(first, first + num_episodes)
    seeds = [np.random.default_rng([SPLITS.index(split), i]) for i in numbers]
    columns = np.stack([rng.integers(grid, size=BALLS + 1) for rng in seeds])
    random = np.stack([rng.integers(NUM_ACTIONS, size=whole) for rng in seeds])
    scripted = np.array(numbers) % 2 == 1
    paddle, rows = np.full(num_episodes, grid // 2), np.arange(whole) % (grid - 1)
    column = columns[:, np.arange(whole) // (grid - 1)]
    action, reward = np.zeros((num_episodes, whole), np.int64), np.zeros((num_episodes, whole), np.float32)
    path = []
    for t in range(whole):
        path.append(paddle)
        if t == whole - 1:
            break
        wanted = np.clip(column[:, t], REACH, grid - 1 - REACH)
        towards = np.where(wanted == paddle, 0, np.where(wanted < paddle, 1, 2))
        action[:, t] = np.where(scripted, towards, random[:, t])
        paddle = np.clip(paddle + np.array([0, -1, 1])[action[:, t]], REACH, grid - 1 - REACH)
        if rows[t + 1] == 0:
            reward[:, t] = np.where(np.abs(column[:, t] - paddle) <= REACH, 1, -1)
    terminated = np.zeros((num_episodes, whole), bool)
    terminated[:, -2:] = True
    ball = np.stack([np.broadcast_to(rows, column.shape), column], -1)
    cell = np.stack([ball, np.stack([np.full(column.shape, grid - 1), np.stack(path, 1)], -1)], 2)
    made = {"action": action, "reward": reward, "terminated": terminated, "cell": cell.astype(np.int64)}
    made = {name: field[:, :num_frames] for name, field in made.items()}
    made["action"][:, -1], made["reward"][:, -1] = 0, 0
    return made


def draw(cell: np.ndarray, grid: int, image_size: int) -> np.ndarray:
    """Frames uint8 ``[E, T, 3, S, S]`` of the cells ``[E, T, 2, 2]`` of ball and paddle; the ball lies on top."""
    e, t = np.arange(len(cell))[:, None], np.arange(cell.shape[1])[None]
    board = np.zeros((*cell.shape[:2], grid, grid), np.int64)
    for offset in range(-REACH, REACH + 1):
        board[e, t, grid - 1, cell[:, :, 1, 1] + offset] = 2
    board[e, t, cell[:, :, 0, 0], cell[:, :, 0, 1]] = 1
    at = np.arange(image_size) * grid // image_size
    return np.moveaxis(COLORS[board[:, :, at][:, :, :, at]], -1, 2)


def iter_catch(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int | None = None, grid: int = GRID
) -> Iterator[CatchEpisodes]:
    """The same as `generate_catch`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, a grid of fewer than 4 or more than 64 squares, a picture smaller than the
            grid, less than one episode, or frames that are none or more than an episode has.
    """
    check_split(split)
    if not LEAST_GRID <= grid <= MOST_GRID:
        raise DataError(f"catch: grid is a number of squares from {LEAST_GRID} to {MOST_GRID}, got {grid}")
    if image_size < grid:
        raise DataError(f"catch: {grid} squares do not fit into {image_size} pixels: ask for {grid} pixels at least, "
                        "for example height=32")
    frames = length(grid) if num_frames is None else num_frames
    if not 1 <= frames <= length(grid):
        raise DataError(f"catch: an episode of {BALLS} balls on a grid of {grid} has {length(grid)} frames, "
                        f"got episode_length={frames}")
    if num_episodes < 1:
        raise DataError(f"catch: num_episodes must be at least 1, got {num_episodes}")
    step = max(1, 4000 // frames)
    for start in track(range(0, num_episodes, step), f"Drawing catch, {split}"):
        made = simulate(split, start, min(step, num_episodes - start), frames, grid)
        yield CatchEpisodes(draw(made["cell"], grid, image_size), first_episode=start, **made)


def generate_catch(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int | None = None, grid: int = GRID
) -> CatchEpisodes:
    """The first episodes of a split, in memory (3 kB a frame at 32 pixels).

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_episodes: How many; a longer run starts with the episodes of a shorter one.
        image_size: Pixels of a side, at least ``grid``.
        num_frames: Frames per episode, at most and by default all of ten balls: 71 on 8 x 8 squares.
        grid: Squares of a side, from 4 to 64.
    Raises:
        DataError: as `iter_catch`.
    Example:
        >>> episodes = generate_catch("val", num_episodes=2)
        >>> episodes.video.shape, episodes.reward[1].sum().item()  # the second is played by the script
        ((2, 71, 3, 32, 32), 10.0)
    """
    parts = list(iter_catch(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames, grid=grid))
    names = [field.name for field in fields(CatchEpisodes) if field.name != "first_episode"]
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return CatchEpisodes(**whole)
