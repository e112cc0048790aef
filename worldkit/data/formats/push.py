"""Push: a disc that the action moves, and two that it pushes; made on the spot.

The world is the square [-1, 1] x [-1, 1], everything ``(y, x)``. The white disc, number 0, does what it is told: action
``[2]`` in [-1, 1] moves it by ``STEP * action`` from one frame to the next, unless a wall, or a disc that has no room,
is in its way. The other two, of two colours, lie still until something hits them, then slide and are slowed by
friction; they hit one another (equal masses, `RESTITUTION`) and bounce off the walls. Nothing leaves the image, and no
two discs overlap by more than half a pixel of 64.

Where they go next follows from positions and velocities alone, and both are rounded to float32 once a frame: `rollout`
from a stored state gives the stored future bit for bit, or, with other actions, what would have happened instead.

The stored actions come from a policy that heads for one of the discs, or for some place, never quite straight, and
changes its mind every ten frames or so, or when it gets no further. It touches a disc on the way to a third of all
frames, and in two thirds a disc moves. Episodes are short (40 frames) because discs end up in corners.

Only sums, products, quotients and square roots of float64 are used, so every machine makes the same episodes; episode
``i`` of a split is the same however many are made, and begins the same however long it is. Frames are drawn as those of
Balls (`worldkit.data.formats.balls`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from einops import rearrange, repeat

from ...errors import DataError
from ...progress import track
from ..splits import SPLITS, check_split
from .balls import CANVAS, COLORS, IMAGE_SIZES, render
from .balls import RADIUS as _PIXELS

NUM_DISCS = 3
RADIUS = _PIXELS / (CANVAS / 2)
STEP = 0.125  # what the pusher moves per frame and unit of action; 4 of 64 pixels
FRICTION = 0.01  # speed that a sliding disc loses per frame
RESTITUTION = 0.3  # of two discs that meet; walls give back everything
SUBSTEPS = 10
PUSHER_COLOR = (1.0, 1.0, 1.0)
_ROOM = 1 - RADIUS  # centres stay within
_PASSES = 4  # over all pairs, until nothing overlaps


@dataclass(frozen=True)
class PushEpisodes:
    """``E`` episodes of ``T`` frames; what `generate_push` returns.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        action: float32 ``[E, T, 2]``, ``(y, x)`` in [-1, 1]; index t acts between frames t and t + 1.
        position: float32 ``[E, T, 3, 2]``, centres ``(y, x)`` in [-1, 1]; disc 0 is the pusher.
        velocity: float32 ``[E, T, 3, 2]``, the same units per frame; of the pusher: how far it came in the last frame.
        contact: bool ``[E, T]``, whether the pusher touched a disc on the way to this frame.
        colors: float64 ``[E, 3, 3]``, RGB in [0, 1] of each disc.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    action: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    contact: np.ndarray
    colors: np.ndarray
    first_episode: int = 0


def _length(vector: np.ndarray) -> np.ndarray:
    """Length of vectors ``[..., 2]``, ``[..., 1]``; square roots are the same on every machine, norms may not be."""
    return np.sqrt(vector[..., :1] ** 2 + vector[..., 1:] ** 2)


def _apart(x: np.ndarray, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Direction from disc j to disc i ``[E, 2]``, and how far they overlap ``[E, 1]`` (below 0: they do not)."""
    between = x[:, i] - x[:, j]
    distance = _length(between)
    return between / np.maximum(distance, 1e-9), 2 * RADIUS - distance


def _closing(v: np.ndarray, i: int, j: int, normal: np.ndarray) -> np.ndarray:
    """Speed at which discs i and j come together along ``normal``, 0 if they part; ``[E, 1]``."""
    relative = v[:, j] - v[:, i]
    return np.maximum(relative[:, :1] * normal[:, :1] + relative[:, 1:] * normal[:, 1:], 0)


def _collide(x: np.ndarray, v: np.ndarray, touched: np.ndarray) -> None:
    """Let discs that overlap hit one another, and put them side by side; all in place."""
    for i, j in ((1, 0), (2, 0), (2, 1)):
        normal, depth = _apart(x, i, j)
        hit = depth > 0
        impulse = np.where(hit, (1 + RESTITUTION) * _closing(v, i, j, normal), 0) * normal
        push = np.where(hit, depth, 0) * normal
        if j == 0:  # nothing slows the pusher
            v[:, i] += impulse
            x[:, i] += push
            touched |= hit[:, 0]
        else:
            v[:, i] += impulse / 2
            v[:, j] -= impulse / 2
            x[:, i] += push / 2
            x[:, j] -= push / 2


def _bounce(x: np.ndarray, v: np.ndarray) -> None:
    """Turn discs back at the walls, in place; the pusher's velocity is what it is told."""
    outside = np.abs(x) > _ROOM
    outward = outside & (x * v > 0)
    outward[:, 0] = False
    np.copyto(v, -v, where=outward)
    np.clip(x, -_ROOM, _ROOM, out=x)


def _substep(x: np.ndarray, v: np.ndarray, touched: np.ndarray) -> None:
    """A tenth of a frame for discs ``[E, 3, 2]``, in place."""
    x += v / SUBSTEPS
    for _ in range(_PASSES):
        _collide(x, v, touched)
        _bounce(x, v)
    for i in (1, 2):  # a disc without room stops the pusher
        normal, depth = _apart(x, i, 0)
        x[:, 0] -= np.maximum(depth, 0) * normal
    np.clip(x[:, 0], -_ROOM, _ROOM, out=x[:, 0])
    speed = _length(v[:, 1:])
    v[:, 1:] *= np.maximum(speed - FRICTION / SUBSTEPS, 0) / np.maximum(speed, 1e-9)


def _frame(position: np.ndarray, velocity: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, ...]:
    """Position and velocity float32 ``[E, 3, 2]`` a frame later, and whether the pusher touched a disc ``[E]``."""
    x, v = position.astype(np.float64), velocity.astype(np.float64)
    v[:, 0] = STEP * action.astype(np.float64)
    touched = np.zeros(len(x), dtype=bool)
    for _ in range(SUBSTEPS):
        _substep(x, v, touched)
    v[:, 0] = x[:, 0] - position[:, 0]
    return x.astype(np.float32), v.astype(np.float32), touched


def rollout(position: np.ndarray, velocity: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, ...]:
    """What happens from a state on, if the pusher is told these actions.

    Args:
        position, velocity: float32 ``[E, 3, 2]`` as in `PushEpisodes`, one state per episode.
        action: float32 ``[E, T, 2]`` in [-1, 1].
    Returns:
        Position and velocity float32 ``[E, T, 3, 2]``, and contact bool ``[E, T]``: entry t is what action t led to.
    Raises:
        DataError: for shapes that do not go together, or an action outside of [-1, 1].
    Example:
        >>> start, right = np.float32([[[0, -0.75], [0.7, 0], [0, -0.125]]]), np.float32([[[0, 1]] * 3])
        >>> position, _, contact = rollout(start, 0 * start, right)
        >>> position[0, :, 0, 1].tolist(), contact[0].tolist()
        ([-0.625, -0.5, -0.375], [False, True, False])
        >>> bool(position[0, -1, 2, 1] > 0)
        True
    """
    episodes = len(position)
    if position.shape != (episodes, NUM_DISCS, 2) or velocity.shape != position.shape:
        raise DataError(f"push: position and velocity must be [E, {NUM_DISCS}, 2], got {list(position.shape)} and "
                        f"{list(velocity.shape)}")
    if action.ndim != 3 or action.shape[::2] != (episodes, 2):
        raise DataError(f"push: action must be [{episodes}, T, 2], as there are {episodes} states, "
                        f"got {list(action.shape)}")
    if not (np.abs(action) <= 1).all():
        raise DataError("push: actions must lie in [-1, 1]; clip them")
    frames = []
    for t in range(action.shape[1]):
        position, velocity, touched = _frame(position, velocity, action[:, t])
        frames.append((position, velocity, touched))
    return tuple(np.stack(part, 1) for part in zip(*frames, strict=True))


class _Policy:
    """What the pusher of every episode is told: smooth, random, and drawn to the discs."""

    DRAWS = 9

    def __init__(self, draws: np.ndarray):
        self.draws = draws  # uniform in [0, 1], [E, T, DRAWS]
        episodes = len(draws)
        self.target = np.zeros(episodes, dtype=np.int64)  # 1, 2: that disc; 0: a place
        self.place, self.aside = np.zeros((episodes, 2)), np.zeros((episodes, 2))
        self.speed, self.action = np.zeros((episodes, 1)), np.zeros((episodes, 2))

    def __call__(self, t: int, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Actions float32 ``[E, 2]`` at frame t, from positions and velocities ``[E, 3, 2]``."""
        u, x = self.draws[:, t], position.astype(np.float64)
        stuck = _length(velocity[:, 0].astype(np.float64)) < 0.3 * STEP * _length(self.action)
        there = (self.target == 0)[:, None] & (_length(self.place - x[:, 0]) < STEP)
        change = (u[:, :1] < 0.1) | stuck | there | (t == 0)
        self.target = np.where(change[:, 0], np.searchsorted([0.2, 0.6], u[:, 1]), self.target)
        self.place = np.where(change, (2 * u[:, 2:4] - 1) * _ROOM, self.place)
        self.aside = np.where(change, (2 * u[:, 4:6] - 1) * RADIUS, self.aside)
        self.speed = np.where(change, 0.5 + 0.5 * u[:, 6:7], self.speed)
        disc = x[np.arange(len(x)), self.target] + self.aside
        way = np.where((self.target == 0)[:, None], self.place, disc) - x[:, 0]
        wish = self.speed * way / np.maximum(_length(way), 1e-9)
        self.action = np.clip(0.5 * self.action + 0.5 * wish + 0.4 * (u[:, 7:9] - 0.5), -1, 1)
        return self.action.astype(np.float32)


def _start(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``[3, 2]`` and colours ``[3, 3]`` of one episode."""
    while True:
        places = rng.uniform(-_ROOM, _ROOM, size=(NUM_DISCS, 2))
        pairs = ((0, 1), (0, 2), (1, 2))
        if all(_length(places[i] - places[j])[0] > 2 * RADIUS for i, j in pairs):
            return places, np.stack([PUSHER_COLOR, *COLORS[rng.permutation(len(COLORS))[: NUM_DISCS - 1]]])


def simulate(split: str, num_episodes: int, num_frames: int) -> dict[str, np.ndarray]:
    """The first episodes of a split without their frames: the other fields of `PushEpisodes` by name."""
    starts, draws = [], np.empty((num_episodes, num_frames, _Policy.DRAWS))
    for i in range(num_episodes):
        starts.append(_start(np.random.default_rng([SPLITS.index(split), i])))
        np.random.default_rng([SPLITS.index(split), i, 1]).random(out=draws[i])
    position, colors = (np.stack(part) for part in zip(*starts, strict=True))
    position, policy = position.astype(np.float32), _Policy(draws)
    velocity, contact = np.zeros_like(position), np.zeros(num_episodes, dtype=bool)
    frames = []
    for t in range(num_frames):
        action = policy(t, position, velocity)
        frames.append((action, position, velocity, contact))
        position, velocity, contact = _frame(position, velocity, action)
    action, position, velocity, contact = (np.stack(part, 1) for part in zip(*frames, strict=True))
    return {"action": action, "position": position, "velocity": velocity, "contact": contact, "colors": colors}


def draw(position: np.ndarray, colors: np.ndarray, image_size: int = CANVAS) -> np.ndarray:
    """Frames uint8 ``[E, T, 3, S, S]`` of positions ``[E, T, 3, 2]`` and colours ``[E, 3, 3]``.

    Args:
        image_size: 64, 32 or 16.
    """
    pixels = (rearrange(position, "e t n yx -> (e t) n yx")[..., ::-1].astype(np.float64) + 1) * (CANVAS / 2)
    frames, _ = render(pixels, repeat(colors, "e n c -> (e t) n c", t=position.shape[1]), image_size)
    return rearrange(frames, "(e t) h w c -> e t c h w", t=position.shape[1])


def iter_push(
    split: str = "train", *, num_episodes: int, image_size: int = CANVAS, num_frames: int = 40
) -> Iterator[PushEpisodes]:
    """The same as `generate_push`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, an image size other than 64, 32 or 16, or less than one episode or frame.
    """
    check_split(split)
    if image_size not in IMAGE_SIZES:
        raise DataError(f"push is drawn at {', '.join(map(str, IMAGE_SIZES))} pixels, not {image_size}")
    for name, value in (("num_episodes", num_episodes), ("num_frames", num_frames)):
        if value < 1:
            raise DataError(f"push: {name} must be at least 1, got {value}")
    made = simulate(split, num_episodes, num_frames)
    step = max(1, 400 // num_frames)  # about 50 MB of working memory
    for start in track(range(0, num_episodes, step), f"Drawing push, {split}"):
        part = {name: field[start : start + step] for name, field in made.items()}
        yield PushEpisodes(draw(part["position"], part["colors"], image_size), first_episode=start, **part)


def generate_push(
    split: str = "train", *, num_episodes: int, image_size: int = CANVAS, num_frames: int = 40
) -> PushEpisodes:
    """The first episodes of a split, in memory (12 kB a frame at 64 pixels, 3 kB at 32).

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_episodes: How many; a longer run starts with the episodes of a shorter one.
        image_size: 64, 32 or 16.
        num_frames: Frames per episode.
    Raises:
        DataError: for an unknown split, another image size, or less than one episode or frame.
    Example:
        >>> episodes = generate_push("val", num_episodes=1, image_size=32, num_frames=3)
        >>> episodes.video.shape, episodes.action.shape
        ((1, 3, 3, 32, 32), (1, 3, 2))
    """
    parts = list(iter_push(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames))
    names = [field.name for field in fields(PushEpisodes) if field.name != "first_episode"]
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return PushEpisodes(**whole)
