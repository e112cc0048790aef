"""Maze: discs that walk along the corridors of a maze, never turn round, and choose where ways part.

The board has 7 x 7 cells, corridors black and the rest white. It is made of the walls of a perfect maze of 3 x 3 rooms
(Kruskal's algorithm; its outer walls are a corridor, too), whose dead ends are opened until none is left: a disc can
always go on. Three or four discs of different colours, as wide as a corridor, go from cell to cell, one step in two
frames, and pass through one another; where several ways go on, each is as likely. So the future has a mode for every
choice of ways, and what is possible is seen in the background alone.

After G-SWM's maze (Lin et al. 2020, ``scripts/dataset_maze``), which takes its mazes from a package and is not made
again here: the same rules, but our own random numbers and edges of discs, so episodes are others.

Episode ``i`` of a split is the same however many are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from ...errors import DataError
from ...progress import track
from ..splits import SPLITS, check_split

CELLS, NUM_FRAMES, MOST_AGENTS = 7, 99, 4
STEPS = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])
"""Up, right, down, left: (row, column)."""
COLORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float64)
_ROOMS = [(row, column) for row in (1, 3, 5) for column in (1, 3, 5)]


@dataclass(frozen=True)
class MazeEpisodes:
    """``E`` episodes of ``T`` frames; what `generate_maze` returns.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        corridors: bool ``[E, 7, 7]``, which cells discs walk in.
        place: float64 ``[E, T, 4, 2]``, (row, column) of discs, in cells; halfway between two in odd frames. Zeros of a
            fourth one that is not there.
        present: bool ``[E, 4]``, which discs there are.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    corridors: np.ndarray
    place: np.ndarray
    present: np.ndarray
    first_episode: int = 0


def make_board(rng: np.random.Generator) -> np.ndarray:
    """Corridors of a random maze without dead ends, bool ``[7, 7]``; ``rng`` moves on.

    Example:
        >>> board = make_board(np.random.default_rng(0))
        >>> bool(board[0].all()), min(len(ways(board, cell)) for cell in np.argwhere(board))
        (True, 2)
    """
    corridors = np.ones((CELLS, CELLS), dtype=bool)
    tree = {room: room for room in _ROOMS}

    def root(room: tuple[int, int]) -> tuple[int, int]:
        return room if tree[room] == room else root(tree[room])

    for room in _ROOMS:
        corridors[room] = False
    doors = [((row, column), (row + down, column + right)) for row, column in _ROOMS
             for down, right in ((0, 2), (2, 0)) if max(row + down, column + right) < CELLS]
    for door in rng.permutation(len(doors)):
        one, other = doors[door]
        if root(one) != root(other):
            tree[root(one)] = root(other)
            corridors[(one[0] + other[0]) // 2, (one[1] + other[1]) // 2] = False
    while len(ends := [cell for cell in np.argwhere(corridors) if len(ways(corridors, cell)) < 2]):
        around = [there for there in ends[0] + STEPS if not corridors[tuple(there)]]
        corridors[tuple(around[rng.integers(len(around))])] = True
    return corridors


def ways(corridors: np.ndarray, cell: np.ndarray) -> list[int]:
    """Numbers of `STEPS` that lead from a cell ``[2]`` to a corridor."""
    return [i for i, (row, column) in enumerate(cell + STEPS)
            if 0 <= row < CELLS and 0 <= column < CELLS and corridors[row, column]]


def walk(rng: np.random.Generator, corridors: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
    """Cells of a disc that never turns round, int64 ``[length, 2]``."""
    cells, came = [start], -1
    for _ in range(length - 1):
        on = [way for way in ways(corridors, cells[-1]) if way != came]
        way = on[rng.integers(len(on))]
        cells.append(cells[-1] + STEPS[way])
        came = (way + 2) % 4
    return np.stack(cells)


def draw(place: np.ndarray, corridors: np.ndarray, colors: np.ndarray, image_size: int) -> np.ndarray:
    """Frames uint8 ``[T, 3, S, S]`` of discs ``[T, A, 2]`` with colours ``[A, 3]``; later discs lie on top."""
    middles = (np.arange(image_size) + 0.5) * CELLS / image_size  # of pixels, in cells
    cell = middles.astype(int)
    frame = np.where(corridors[cell[:, None], cell], 0.0, 1.0)[None, None]
    frames = np.broadcast_to(frame, (len(place), 3, image_size, image_size)).copy()
    for disc in range(place.shape[1]):
        y, x = (place[:, disc, axis, None] + 0.5 - middles for axis in (0, 1))
        far = np.sqrt(y[:, :, None] ** 2 + x[:, None] ** 2)
        covered = np.clip((0.5 - far) * image_size / CELLS + 0.5, 0, 1)[:, None]
        frames = frames * (1 - covered) + colors[disc][:, None, None] * covered
    return (255 * frames + 0.5).astype(np.uint8)


def _episode(split: str, number: int, image_size: int, num_frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([SPLITS.index(split), number])
    corridors, count = make_board(rng), int(rng.integers(3, MOST_AGENTS + 1))
    free = np.argwhere(corridors)
    starts, colors = free[rng.permutation(len(free))[:count]], COLORS[rng.permutation(len(COLORS))[:count]]
    place = np.zeros((num_frames, MOST_AGENTS, 2))
    for disc, start in enumerate(starts):
        steps = np.random.default_rng([SPLITS.index(split), number, 1 + disc])
        cells = walk(steps, corridors, start, num_frames // 2 + 1)
        place[::2, disc] = cells[: (num_frames + 1) // 2]
        place[1::2, disc] = (cells[:-1] + cells[1:])[: num_frames // 2] / 2
    return {"video": draw(place[:, :count], corridors, colors, image_size), "corridors": corridors, "place": place,
            "present": np.arange(MOST_AGENTS) < count}


def iter_maze(
    split: str = "train", *, num_episodes: int, image_size: int = 64, num_frames: int = NUM_FRAMES
) -> Iterator[MazeEpisodes]:
    """The same as `generate_maze`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, images below 14 pixels, or less than one episode or frame.
    """
    check_split(split)
    for name, value, least in (("num_episodes", num_episodes, 1), ("num_frames", num_frames, 1),
                               ("image_size", image_size, 2 * CELLS)):
        if value < least:
            raise DataError(f"maze: {name} must be at least {least}, got {value}")
    step = max(1, 400 // num_frames)
    for start in track(range(0, num_episodes, step), f"Drawing mazes, {split}"):
        made = [_episode(split, i, image_size, num_frames) for i in range(start, min(start + step, num_episodes))]
        yield MazeEpisodes(**{name: np.stack([one[name] for one in made]) for name in made[0]}, first_episode=start)


def generate_maze(
    split: str = "train", *, num_episodes: int, image_size: int = 64, num_frames: int = NUM_FRAMES
) -> MazeEpisodes:
    """The first episodes of a split, in memory.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_episodes: How many; the original has 10000, 100 and 100.
        image_size: 14 or more.
        num_frames: Frames per episode; the original has 99.
    Raises:
        DataError: as `iter_maze`.
    Example:
        >>> generate_maze("val", num_episodes=1, image_size=28, num_frames=3).video.shape
        (1, 3, 3, 28, 28)
    """
    parts = list(iter_maze(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames))
    names = [field.name for field in fields(MazeEpisodes)][:-1]
    return MazeEpisodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
