"""MultiGrid: a board of 8 x 8 cells (or fewer) on which several agents move by themselves; made on the spot.

Two, or up to eight, agents of different colours stand in cells of their own, between four grey walls (one for every 16
cells). From one frame to
the next every agent does one of five things: it stays, or goes up, down, left or right; it stays where it is if a wall,
the border or another agent is in the way, or an agent before it has just gone there (they move in order, agent 0
first). Actions are drawn without memory or purpose, so nothing tells what an agent will do but seeing it: what a model
of this video needs is one hidden action per agent.

Agent k has the same colour in all episodes. Frames are drawn with whole cells, nothing else; actions are recorded and
not shown.

After the MultiGrid of FLAM (arXiv:2602.16229), which has no public data: 8 x 8 cells, agents that act by themselves.
Rules, walls and colours are ours, so figures cannot be compared with the paper's.

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

CELLS = 8
"""Along a side, unless told otherwise."""
LEAST_CELLS = 4
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
"""Stay, up, down, left, right: what an action adds to (row, column)."""
NUM_ACTIONS = len(MOVES)
CELLS_PER_WALL = 16
MOST_AGENTS = 8
GROUND, WALL = (32, 32, 32), (120, 120, 120)
COLORS = np.array([(230, 60, 60), (70, 200, 80), (80, 110, 240), (235, 200, 60), (200, 80, 210), (80, 210, 220),
                   (240, 240, 240), (240, 140, 50)], dtype=np.uint8)


@dataclass(frozen=True)
class MultiGridEpisodes:
    """``E`` episodes of ``T`` frames of ``A`` agents; what `generate_multigrid` returns.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        choice: int64 ``[E, T, A]``, which of `MOVES` every agent tries between frames t and t + 1.
        cell: int64 ``[E, T, A, 2]``, (row, column) of every agent, from 0 to 7 (N - 1).
        walls: bool ``[E, N, N]``, which of the N x N (8 x 8) cells are walls.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    choice: np.ndarray
    cell: np.ndarray
    walls: np.ndarray
    first_episode: int = 0


def positions(cell: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Centres (y, x) in [-1, 1], float32, of cells (row, column) on a board of so many along a side.

    Example:
        >>> positions(np.array([0, 7])).tolist()
        [-0.875, 0.875]
    """
    return ((2 * cell + 1) / cells - 1).astype(np.float32)


def move(cell: np.ndarray, choice: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Where agents are a frame later.

    Args:
        cell: int64 ``[E, A, 2]``.
        choice: int64 ``[E, A]``.
        walls: bool ``[E, N, N]``.
    Returns:
        int64 ``[E, A, 2]``.
    Example:
        >>> walls = np.zeros((1, 8, 8), bool)
        >>> move(np.array([[[0, 0], [0, 1]]]), np.array([[4, 4]]), walls).tolist()  # the first is in the second's way
        [[[0, 0], [0, 2]]]
    """
    cell, rows, cells = cell.copy(), np.arange(len(cell)), walls.shape[-1]
    taken = walls.copy()
    for agent in range(cell.shape[1]):
        taken[rows, cell[:, agent, 0], cell[:, agent, 1]] = True
    for agent in range(cell.shape[1]):
        here, there = cell[:, agent], cell[:, agent] + MOVES[choice[:, agent]]
        inside = ((there >= 0) & (there < cells)).all(-1)
        bounded = np.clip(there, 0, cells - 1)
        goes = inside & ~taken[rows, bounded[:, 0], bounded[:, 1]]
        taken[rows[goes], here[goes, 0], here[goes, 1]] = False
        cell[:, agent] = np.where(goes[:, None], bounded, here)
        taken[rows, cell[:, agent, 0], cell[:, agent, 1]] = True
    return cell


def draw(cell: np.ndarray, walls: np.ndarray, image_size: int) -> np.ndarray:
    """Frames uint8 ``[E, T, 3, S, S]`` of cells ``[E, T, A, 2]`` and walls ``[E, N, N]``."""
    episodes, frames, agents = cell.shape[:3]
    board = np.where(walls[..., None], np.array(WALL, np.uint8), np.array(GROUND, np.uint8))
    board = np.repeat(board[:, None], frames, 1)
    e, t = np.arange(episodes)[:, None], np.arange(frames)[None]
    for agent in range(agents):
        board[e, t, cell[:, :, agent, 0], cell[:, :, agent, 1]] = COLORS[agent]
    side = image_size // walls.shape[-1]
    return np.moveaxis(board.repeat(side, 2).repeat(side, 3), -1, 2)


def simulate(split: str, num_episodes: int, num_frames: int, num_agents: int, cells: int = CELLS
             ) -> dict[str, np.ndarray]:
    """The first episodes of a split without their frames: the other fields of `MultiGridEpisodes` by name."""
    starts, choices, num_walls = [], [], cells**2 // CELLS_PER_WALL
    for i in range(num_episodes):
        places = np.random.default_rng([SPLITS.index(split), i]).permutation(cells**2)
        starts.append(places[: num_walls + MOST_AGENTS])  # the same board however many agents stand on it
        rng = np.random.default_rng([SPLITS.index(split), i, 1])
        choices.append(rng.integers(NUM_ACTIONS, size=(num_frames, MOST_AGENTS))[:, :num_agents])
    places, choice = np.stack(starts), np.stack(choices)
    walls = np.zeros((num_episodes, cells**2), bool)
    np.put_along_axis(walls, places[:, :num_walls], True, 1)
    walls = walls.reshape(-1, cells, cells)
    here = places[:, num_walls : num_walls + num_agents]
    cell, path = np.stack([here // cells, here % cells], -1), []
    for t in range(num_frames):
        path.append(cell)
        cell = move(cell, choice[:, t], walls)
    return {"choice": choice.astype(np.int64), "cell": np.stack(path, 1).astype(np.int64), "walls": walls}


def iter_multigrid(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int = 24, num_agents: int = 2,
    cells: int = CELLS
) -> Iterator[MultiGridEpisodes]:
    """The same as `generate_multigrid`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, an image size that is no multiple of ``cells``, less than one episode or frame,
            fewer than four cells, or no agent or more than eight.
    """
    check_split(split)
    if cells < LEAST_CELLS:
        raise DataError(f"multigrid: cells must be at least {LEAST_CELLS} along a side, got {cells}")
    if image_size < cells or image_size % cells:
        raise DataError(f"multigrid has {cells} x {cells} cells of whole pixels: image sizes are multiples of {cells}, "
                        f"as {4 * cells} or {8 * cells}, not {image_size}")
    for name, value in (("num_episodes", num_episodes), ("num_frames", num_frames)):
        if value < 1:
            raise DataError(f"multigrid: {name} must be at least 1, got {value}")
    if not 1 <= num_agents <= MOST_AGENTS:
        raise DataError(f"multigrid: num_agents must be from 1 to {MOST_AGENTS}, got {num_agents}")
    made = simulate(split, num_episodes, num_frames, num_agents, cells)
    step = max(1, 4000 // num_frames)
    for start in track(range(0, num_episodes, step), f"Drawing multigrid, {split}"):
        part = {name: field[start : start + step] for name, field in made.items()}
        yield MultiGridEpisodes(draw(part["cell"], part["walls"], image_size), first_episode=start, **part)


def generate_multigrid(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int = 24, num_agents: int = 2,
    cells: int = CELLS
) -> MultiGridEpisodes:
    """The first episodes of a split, in memory (3 kB a frame at 32 pixels).

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_episodes: How many; a longer run starts with the episodes of a shorter one.
        image_size: A multiple of ``cells``.
        num_frames: Frames per episode.
        num_agents: 1 to 8; more agents on the same boards.
        cells: Along a side, at least 4.
    Raises:
        DataError: as `iter_multigrid`.
    Example:
        >>> episodes = generate_multigrid("val", num_episodes=1, num_frames=3, num_agents=4)
        >>> episodes.video.shape, episodes.choice.shape, episodes.cell.shape
        ((1, 3, 3, 32, 32), (1, 3, 4), (1, 3, 4, 2))
    """
    parts = list(iter_multigrid(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames,
                                num_agents=num_agents, cells=cells))
    names = [field.name for field in fields(MultiGridEpisodes) if field.name != "first_episode"]
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return MultiGridEpisodes(**whole)
