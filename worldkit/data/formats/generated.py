"""Formats that are made on the spot: ``balls``, ``catch-play``, ``maze``, ``multigrid``, ``pendulum-play``, ``push``,
``shapes``, ``single-ball``.

They are cached, and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource
from ..cache import CacheSource, Span, cache_key, cached
from ..splits import check_split
from .balls import CANVAS, iter_balls, segment
from .catch import GRID, iter_catch, length
from .maze import CELLS, NUM_FRAMES, iter_maze
from .multigrid import CELLS as BOARD
from .multigrid import NUM_ACTIONS, iter_multigrid, positions
from .pendulum import NUM_FRAMES as _SWING
from .pendulum import iter_pendulum, tip
from .push import NUM_DISCS, iter_push
from .shapes import iter_shapes
from .single_ball import NUM_FRAMES as _FALL
from .single_ball import generate_single_ball

_VERSION, _SHAPES_VERSION = 1, 2  # raise when the generators change, so that old cache entries are not used
_BALLS_EPISODES = {"train": 200, "val": 20, "test": 20}
_PUSH_EPISODES = {"train": 500, "val": 50, "test": 50}
_CATCH_EPISODES = {"train": 200, "val": 20, "test": 20}
_PENDULUM_EPISODES = {"train": 200, "val": 20, "test": 20}
_MAZE_EPISODES = {"train": 200, "val": 20, "test": 20}
_SINGLE_BALL_EPISODES = {"train": 500, "val": 100, "test": 100}
_MULTIGRID_EPISODES = {"train": 1000, "val": 50, "test": 50}
_SHAPES_IMAGES = {"train": 4000, "val": 400, "test": 400}


def is_generated(target: str, generator: str) -> bool:
    """Whether a target is a generator's name, with or without a size.

    Example:
        >>> is_generated("balls-32", "balls"), is_generated("balls/train.hdf5", "balls")
        (True, False)
    """
    return _parted(target)[0] == generator


def _parted(target: str) -> tuple[str, str]:
    """A generator's name, and the size behind it; empty if there is none."""
    name, _, size = target.rpartition("-")
    return (name, size) if size.isdigit() else (target, "")


def _square(target: str, height: int | None, width: int | None) -> tuple[str, int]:
    """Generator and image size asked for by a name and, or, by height and width."""
    name, size = _parted(target)
    asked = {int(size)} if size else set()
    asked |= {n for n in (height, width) if n is not None}
    if len(asked) > 1:
        sizes = ", ".join(map(str, sorted(asked)))
        raise DataError(f"{target}: images are square, but several sizes were asked for: {sizes} (by name, height, "
                        f"width or the model's images). '{name}' alone takes the size asked for elsewhere")
    return name, asked.pop() if asked else CANVAS


def open_balls(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int = 100,
    segments: bool = False,
) -> EpisodeSource:
    """Balls-Interaction (see `worldkit.data.formats.balls`), for example ``"balls"`` or ``"balls-32"``.

    Args:
        num_episodes: Default 200 for train, 20 for val and test (the original: 5000, 200, 200). They are the first
            ones.
        episode_length: Frames per episode.
        segments: Add ``"segmentation"`` to the state, what ARI and mIoU are scored against.

    Every clip comes with ``"state"``: ``"position"`` float32 ``[T, 3, 2]``, ball centres ``(y, x)`` in [-1, 1];
    ``"velocity"`` float32 ``[T, 3, 2]``, the same units per frame; ``"in_camera"`` bool ``[T, 3]``. With
    ``segments`` also ``"segmentation"`` uint8 ``[T, S, S]``: 0 where there is no ball, k + 1 where ball k is.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _BALLS_EPISODES[split] if num_episodes is None else num_episodes
    request = {"num_episodes": episodes, "image_size": size, "num_frames": episode_length}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_balls(split, **request):
            block = {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "state.position": _flat(part.positions[..., ::-1] / (CANVAS / 2) - 1),
                "state.velocity": _flat(part.velocities[..., ::-1] / (CANVAS / 2)),
                "state.in_camera": part.in_camera.reshape(-1, 3),
            }
            if segments:
                block["state.segmentation"] = segment(part.positions.reshape(-1, *part.positions.shape[2:]), size)
            yield block

    extra = {"segments": True} if segments else {}  # entries without stay what they were
    return _episodes("balls", size, split, blocks, **request, **extra)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[2:]).astype(np.float32)


def _episodes(
    kind: str, size: int, split: str, blocks: Callable[[], Iterator[dict[str, np.ndarray]]], **request: int
) -> CacheSource:
    """Episodes of one length from the cache, made first if they are not there."""
    folder = cached(cache_key(f"{kind}-{size}-{split}", version=_VERSION, **request), blocks)
    length = request["num_frames"]
    spans = [Span(folder, i * length, (i + 1) * length) for i in range(request["num_episodes"])]
    return CacheSource(spans, name=f"{kind}-{size}", kind=kind, split=split, synthetic=True)


def open_push(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int = 40,
) -> EpisodeSource:
    """Discs that a disc pushes (see `worldkit.data.formats.push`), for example ``"push"`` or ``"push-32"``.

    Args:
        num_episodes: Default 500 for train, 50 for val and test. They are the first ones.
        episode_length: Frames per episode.

    Every clip comes with ``"action"`` float32 ``[T, 2]``, ``(y, x)`` in [-1, 1]: row t moves the white disc by
    ``STEP * action`` between frames t and t + 1. ``"state"``: ``"position"`` and ``"velocity"`` float32 ``[T, 3, 2]``,
    as those of balls, the white disc first; ``"contact"`` bool ``[T]``, whether it touched another on the way to frame
    t; ``"in_camera"`` bool ``[T, 3]``, always true.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _PUSH_EPISODES[split] if num_episodes is None else num_episodes
    request = {"num_episodes": episodes, "image_size": size, "num_frames": episode_length}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_push(split, **request):
            yield {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "action": _flat(part.action),
                "state.position": _flat(part.position),
                "state.velocity": _flat(part.velocity),
                "state.contact": part.contact.reshape(-1),
                "state.in_camera": np.ones((part.contact.size, NUM_DISCS), dtype=bool),
            }

    return _episodes("push", size, split, blocks, **request)


def open_multigrid(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int = 24,
    num_agents: int = 2,
    cells: int = BOARD,
) -> EpisodeSource:
    """Agents that act by themselves on a board (see `worldkit.data.formats.multigrid`), for example ``"multigrid-32"``.

    Args:
        num_episodes: Default 1000 for train, 50 for val and test. They are the first ones.
        episode_length: Frames per episode.
        num_agents: 1 to 8.
        cells: Of the board, along a side; the picture's side is a multiple of it.

    Every clip comes with ``"action"`` float32 ``[T, 5 A]``: row t holds, agent by agent, which of five moves it tries
    between frames t and t + 1, as a one-hot vector. ``"state"``: ``"position"`` float32 ``[T, A, 2]``, centres
    ``(y, x)`` in [-1, 1]; ``"choice"`` int64 ``[T, A]``, the moves as numbers.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _MULTIGRID_EPISODES[split] if num_episodes is None else num_episodes
    request = {"num_episodes": episodes, "image_size": size, "num_frames": episode_length}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_multigrid(split, num_agents=num_agents, cells=cells, **request):
            choice = part.choice.reshape(-1, num_agents)
            yield {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "action": np.eye(NUM_ACTIONS, dtype=np.float32)[choice].reshape(len(choice), -1),
                "state.position": _flat(positions(part.cell, cells)),
                "state.choice": choice,
            }

    extra = {} if cells == BOARD else {"cells": cells}  # entries of whole boards stay what they were
    return _episodes("multigrid", size, split, blocks, num_agents=num_agents, **request, **extra)


def open_catch(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int | None = None,
    grid: int = GRID,
) -> EpisodeSource:
    """Play of a small game (see `worldkit.data.formats.catch`), for example ``"catch-play"`` or ``"catch-play-32"``.

    Args:
        num_episodes: Default 200 for train, 20 for val and test. They are the first ones; every other one is played at
            random, the rest by a player that goes for the ball.
        episode_length: Frames per episode, at most and by default all of ten balls: 71 on 8 x 8 squares.
        grid: Squares of a side.

    Every clip comes with ``"action"`` int64 ``[T]``: 0 stays, 1 and 2 are left and right, between frames t and t + 1.
    ``"state"``: ``"reward"`` float32 ``[T]``, 1 for a ball caught and -1 for one missed; ``"terminated"`` bool ``[T]``;
    ``"position"`` float32 ``[T, 2, 2]``, centres ``(y, x)`` in [-1, 1] of the ball and the paddle.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _CATCH_EPISODES[split] if num_episodes is None else num_episodes
    frames = length(grid) if episode_length is None else episode_length
    request = {"num_episodes": episodes, "image_size": size, "num_frames": frames, "grid": grid}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_catch(split, **request):
            yield {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "action": part.action.reshape(-1),
                "state.reward": part.reward.reshape(-1),
                "state.terminated": part.terminated.reshape(-1),
                "state.position": _flat((2 * part.cell + 1) / grid - 1),
            }

    return _episodes("catch-play", size, split, blocks, **request)


def open_pendulum(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int = _SWING,
) -> EpisodeSource:
    """Play of a pendulum (see `worldkit.data.formats.pendulum`), for example ``"pendulum-play-32"``.

    Args:
        num_episodes: Default 200 for train, 20 for val and test. They are the first ones; every other one is played at
            random, in the rest the rod is swung up.
        episode_length: Frames per episode.

    Every clip comes with ``"action"`` float32 ``[T, 1]`` in [-1, 1], half of the torque between frames t and t + 1.
    ``"state"``: ``"observation"`` float32 ``[T, 3]``, cosine and sine of the angle (0 is up) and angular velocity in
    rad/s; ``"position"`` float32 ``[T, 1, 2]``, the rod's tip ``(y, x)`` in [-1, 1]; ``"reward"`` float32 ``[T]``, as
    Gymnasium's ``Pendulum-v1``.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _PENDULUM_EPISODES[split] if num_episodes is None else num_episodes
    request = {"num_episodes": episodes, "image_size": size, "num_frames": episode_length}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_pendulum(split, **request):
            yield {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "action": _flat(part.action),
                "state.observation": _flat(part.observation),
                "state.position": _flat(tip(part.observation)),
                "state.reward": part.reward.reshape(-1),
            }

    return _episodes("pendulum-play", size, split, blocks, **request)


def open_maze(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
    episode_length: int = NUM_FRAMES,
) -> EpisodeSource:
    """Discs that walk in a maze (see `worldkit.data.formats.maze`), for example ``"maze"`` or ``"maze-32"``.

    Args:
        num_episodes: Default 200 for train, 20 for val and test (the original: 10000, 100, 100). They are the first
            ones.
        episode_length: Frames per episode.

    Every clip comes with ``"state"``: ``"position"`` float32 ``[T, 4, 2]``, centres ``(y, x)`` in [-1, 1];
    ``"in_camera"`` bool ``[T, 4]``, which discs there are; ``"corridors"`` bool ``[T, 7, 7]``, where they walk.
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _MAZE_EPISODES[split] if num_episodes is None else num_episodes
    request = {"num_episodes": episodes, "image_size": size, "num_frames": episode_length}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_maze(split, **request):
            yield {
                "video": part.video.reshape(-1, *part.video.shape[2:]),
                "state.position": _flat((2 * part.place + 1) / CELLS - 1),
                "state.in_camera": part.present.repeat(episode_length, 0),
                "state.corridors": part.corridors.repeat(episode_length, 0),
            }

    return _episodes("maze", size, split, blocks, **request)


def open_single_ball(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_episodes: int | None = None,
) -> EpisodeSource:
    """A disc that goes left or right (see `worldkit.data.formats.single_ball`), for example ``"single-ball-32"``.

    Args:
        num_episodes: Default 500 for train, 100 for val and test (the original: 10000, 100, 100). They are the first
            ones, of nine frames each.

    Every clip comes with ``"state"``: ``"position"`` float32 ``[T, 1, 2]``, the centre ``(y, x)`` in [-1, 1].
    """
    check_split(split)
    _, size = _square(target, height, width)
    episodes = _SINGLE_BALL_EPISODES[split] if num_episodes is None else num_episodes

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        made = generate_single_ball(split, num_episodes=episodes, image_size=size)
        yield {"video": made.video.reshape(-1, *made.video.shape[2:]),
               "state.position": _flat(made.positions[..., ::-1] / (CANVAS / 2) - 1)}

    return _episodes("single-ball", size, split, blocks, num_episodes=episodes, image_size=size, num_frames=_FALL)


def open_shapes(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    num_images: int | None = None,
) -> EpisodeSource:
    """Still images of circles, ellipses, rectangles, triangles (`worldkit.data.formats.shapes`); episodes of one frame.

    Args:
        num_images: Default 4000 for train, 400 for val and test (LPWM: 40,000 and 2,000). They are the first ones.
    """
    check_split(split)
    _, size = _square(target, height, width)
    images = _SHAPES_IMAGES[split] if num_images is None else num_images

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        for part in iter_shapes(split, num_images=images, image_size=size):
            yield {"video": part}

    folder = cached(cache_key(f"shapes-{size}-{split}", version=_SHAPES_VERSION, num_images=images, size=size), blocks)
    spans = [Span(folder, i, i + 1) for i in range(images)]
    return CacheSource(spans, name=f"shapes-{size}", kind="shapes", split=split, synthetic=True)
