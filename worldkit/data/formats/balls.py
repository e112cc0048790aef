"""Balls-Interaction: three bouncing balls, the G-SWM data set made on the spot.

Every episode has its own seed, so episode ``i`` of a split is the same however many are generated. Seeds, physics and
frames equal the original bit for bit. The physics of all episodes runs at once (ten substeps a frame, each a handful of
numpy calls); the frames are drawn in batches.

Sizes below 64 are the 64-pixel frames averaged over 2 x 2 (32 px) or 4 x 4 blocks (16 px), rounded half up; the physics
never changes. Left out: the occlusion and two-layer variants of the same paper.

Source: G-SWM (Lin et al. 2020), ``scripts/dataset_balls``, configuration ``balls_interaction``; DDLP uses its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce, repeat

from ...errors import DataError
from ...progress import track

CANVAS, RADIUS, SPEED, SUBSTEPS, NUM_BALLS = 64, 8.0, 3.0, 10, 3
SPLIT_SEEDS = {"train": 7, "val": 8, "test": 9}
SPLIT_SIZES = {"train": 5000, "val": 200, "test": 200}
COLORS = np.array([[0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float64)
IMAGE_SIZES = (64, 32, 16)

# Coverage of the ball sprite (``circle16``): the upper left quarter with the centre row and column; mirrored below.
_QUARTER = np.array(
    [
        [0, 0, 0, 0, 0, 0, 65, 112, 127],
        [0, 0, 0, 0, 111, 225, 255, 255, 255],
        [0, 0, 4, 176, 255, 255, 255, 255, 255],
        [0, 0, 176, 255, 255, 255, 255, 255, 255],
        [0, 111, 255, 255, 255, 255, 255, 255, 255],
        [0, 225, 255, 255, 255, 255, 255, 255, 255],
        [65, 255, 255, 255, 255, 255, 255, 255, 255],
        [112, 255, 255, 255, 255, 255, 255, 255, 255],
        [127, 255, 255, 255, 255, 255, 255, 255, 255],
    ],
    dtype=np.float64,
)
_SPRITE = np.pad(_QUARTER, (0, 8), mode="reflect")
_PATCH, _MARGIN = 17, 4  # side of a drawn ball; canvas margin that saves clipping (balls overshoot by 0.2 px)


@dataclass(frozen=True)
class BallEpisodes:
    """``E`` episodes of ``T`` frames; what `generate_balls` returns.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        positions: float64 ``[E, T, 3, 2]``, ball centres ``(x, y)`` in pixels of the 64-pixel canvas.
        velocities: float64 ``[E, T, 3, 2]``, ``(x, y)`` in canvas pixels per frame.
        colors: float64 ``[E, 3, 3]``, RGB in [0, 1] of each ball.
        in_camera: bool ``[E, T, 3]``, True where drawing the ball changed the frame.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    colors: np.ndarray
    in_camera: np.ndarray
    first_episode: int = 0


def episode_seeds(split: str, num_episodes: int) -> np.ndarray:
    """Seeds of the first episodes of a split, int64 ``[num_episodes]``.

    Example:
        >>> episode_seeds("train", 2).tolist()
        [327741615, 976413892]
    """
    if split not in SPLIT_SEEDS:
        raise DataError(f"balls has no split '{split}': use one of {', '.join(SPLIT_SEEDS)}")
    if num_episodes < 1:
        raise DataError(f"balls: num_episodes must be at least 1, got {num_episodes}")
    return np.random.RandomState(SPLIT_SEEDS[split]).randint(0, 2**32 - 1, size=num_episodes, dtype=np.int64)


def _initial_state(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours ``[3, 3]``, velocities ``[3, 2]`` and positions ``[3, 2]``; the order of the draws is the original's."""
    rng = np.random.RandomState(seed)
    for _ in ("mass", "layer", "size"):  # one choice each, but every draw moves the generator
        rng.choice(1, NUM_BALLS)
    colors = COLORS[rng.choice(len(COLORS), NUM_BALLS)]
    rng.choice(1, NUM_BALLS)  # shape
    directions = rng.randn(NUM_BALLS, 2)
    velocities = directions / np.linalg.norm(directions, axis=1, keepdims=True) * SPEED
    positions = np.zeros((NUM_BALLS, 2))
    placed = 0
    for _ in range(1000):
        candidate = rng.uniform(RADIUS, CANVAS - RADIUS, size=2)
        if all(np.linalg.norm(candidate - other) > 2 * RADIUS for other in positions[:placed]):
            positions[placed] = candidate
            placed += 1
            if placed == NUM_BALLS:
                return colors, velocities, positions
    raise DataError(f"balls: no room for {NUM_BALLS} balls with seed {seed}")


def _substep(x: np.ndarray, v: np.ndarray, dt: float) -> np.ndarray:
    """The next positions of every episode; ``x, v``: ``[E, 3, 2]``; ``v`` changes in place."""
    ahead = x + dt * v
    np.copyto(v, np.abs(v), where=ahead - RADIUS < 0)
    np.copyto(v, -np.abs(v), where=ahead + RADIUS > CANVAS)
    ahead = x + dt * v
    for i in range(NUM_BALLS):
        for j in range(i):
            between = ahead[:, i] - ahead[:, j]
            hit = np.flatnonzero((between**2).sum(-1) < (2 * RADIUS) ** 2)
            if not len(hit):
                continue
            normal = between[hit] / np.linalg.norm(between[hit], axis=-1, keepdims=True)
            speed_i = (normal * v[hit, i]).sum(-1, keepdims=True)
            speed_j = (normal * v[hit, j]).sum(-1, keepdims=True)
            v[hit, i] += normal * (speed_j - speed_i)
            v[hit, j] += normal * (speed_i - speed_j)
    return x + dt * v


def simulate(seeds: np.ndarray, num_frames: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and velocities ``[E, T, 3, 2]`` (x, y; pixels, pixels per frame) and colours ``[E, 3, 3]``."""
    starts = [_initial_state(int(seed)) for seed in seeds]
    colors, v, x = (np.stack(part) for part in zip(*starts, strict=True))
    positions = np.empty((len(seeds), num_frames, NUM_BALLS, 2))
    velocities = np.empty_like(positions)
    for frame in range(num_frames):
        positions[:, frame], velocities[:, frame] = x, v
        for _ in range(SUBSTEPS):
            x = _substep(x, v, 1.0 / SUBSTEPS)
    return positions, velocities, colors


def _coverage(corner: np.ndarray, first: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Ball sprite at sub-pixel places, uint8 levels as float64 ``[F, 17, 17]``.

    The sprite is scaled by 2 radius / 17 and sampled bilinearly: along each axis a pixel takes the hat-function weights
    of the sprite pixels around it, so the whole is two small matrix products.

    Args:
        corner: ``[F, 2]`` upper left corner of the sprite ``(x, y)``.
        first: ``[F, 2]`` first pixel of the patch ``(x, y)``.
        radius: Of the ball in pixels, at most 8.
    """
    pixel = np.arange(_PATCH)
    place = (first[..., None] + pixel - corner[..., None]) * (17 / (2 * radius))  # [F, 2, 17] in sprite pixels
    weight = np.maximum(0, 1 - np.abs(place[..., None] - pixel))  # [F, 2, patch pixel, sprite pixel]
    return np.floor(weight[:, 1] @ _SPRITE @ weight[:, 0].transpose(0, 2, 1) + 0.5)


def render(
    positions: np.ndarray, colors: np.ndarray, image_size: int = CANVAS, *, radius: float = RADIUS
) -> tuple[np.ndarray, np.ndarray]:
    """Draw frames.

    Args:
        positions: ``[F, balls, 2]``, centres ``(x, y)`` in pixels of the 64-pixel canvas; later balls lie on top.
        colors: ``[F, balls, 3]``, RGB in [0, 1].
        image_size: 64, 32 or 16; the smaller ones are block averages of the 64-pixel frame.
        radius: Of all balls in pixels of the canvas, at most 8.
    Returns:
        Frames uint8 ``[F, S, S, 3]``, and bool ``[F, balls]``, True where drawing that ball changed the 64-pixel frame.
    """
    (frames, balls), side = positions.shape[:2], CANVAS + 2 * _MARGIN
    canvas = np.zeros((frames, side, side, 3))
    patches = np.lib.stride_tricks.sliding_window_view(canvas, (_PATCH, _PATCH), axis=(1, 2), writeable=True)
    changed = np.zeros((frames, balls), dtype=bool)
    for ball in range(balls):
        corner = positions[:, ball] - radius
        first = np.ceil(corner - 2 * radius / 17).astype(np.int64)
        alpha = _coverage(corner, first, radius)[:, None] / 255  # [F, 1, 17, 17]
        where = (np.arange(frames), first[:, 1] + _MARGIN, first[:, 0] + _MARGIN)
        before = patches[where]  # [F, 3, 17, 17]
        after = before * (1 - alpha) + colors[:, ball, :, None, None] * alpha
        changed[:, ball] = (after != before).any((1, 2, 3))
        patches[where] = after
    inside = canvas[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return _shrink((inside * 255).astype(np.uint8), image_size), changed


def _shrink(frames: np.ndarray, image_size: int) -> np.ndarray:
    """Average ``[F, 64, 64, 3]`` over blocks to ``[F, S, S, 3]``, rounded half up."""
    block = CANVAS // image_size
    if block == 1:
        return frames
    offsets = [(y, x) for y in range(block) for x in range(block)]
    total = sum(frames[:, y::block, x::block].astype(np.uint16) for y, x in offsets)
    return ((total + block * block // 2) // (block * block)).astype(np.uint8)


def segment(positions: np.ndarray, image_size: int = CANVAS) -> np.ndarray:
    """Which ball every pixel of a frame shows: the true segments behind ARI and mIoU.

    Args:
        positions: ``[F, 3, 2]``, centres ``(x, y)`` in pixels of the 64-pixel canvas; later balls hide earlier ones.
        image_size: 64, 32 or 16.
    Returns:
        uint8 ``[F, S, S]``: ball k + 1 where ball k fills half of the pixel or more, else 0.
    Example:
        >>> labels = segment(np.array([[[20.0, 20.0], [44.0, 20.0], [32.0, 44.0]]]), 32)
        >>> labels.shape, labels[0, 10, 10], labels[0, 22, 16], labels[0, 0, 0]
        ((1, 32, 32), np.uint8(1), np.uint8(3), np.uint8(0))
    """
    frames, side = len(positions), CANVAS + 2 * _MARGIN
    shares = np.zeros((NUM_BALLS, frames, side, side), np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(shares, (_PATCH, _PATCH), axis=(2, 3), writeable=True)
    for ball in range(NUM_BALLS):
        corner = positions[:, ball] - RADIUS
        first = np.ceil(corner - 16 / 17).astype(np.int64)
        alpha = (_coverage(corner, first) / 255).astype(np.float32)
        where = (np.arange(frames), first[:, 1] + _MARGIN, first[:, 0] + _MARGIN)
        for hidden in range(ball):
            patches[hidden][where] *= 1 - alpha
        patches[ball][where] = alpha
    inside = shares[:, :, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    block = CANVAS // image_size
    filled = reduce(inside, "n f (h y) (w x) -> n f h w", "mean", y=block, x=block)
    return np.where(filled.max(0) >= 0.5, filled.argmax(0) + 1, 0).astype(np.uint8)


def iter_balls(
    split: str = "train", *, num_episodes: int, image_size: int = CANVAS, num_frames: int = 100
) -> Iterator[BallEpisodes]:
    """The same as `generate_balls`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, an image size other than 64, 32 or 16, or less than one episode or frame.
    """
    if image_size not in IMAGE_SIZES:
        raise DataError(f"balls are drawn at {', '.join(map(str, IMAGE_SIZES))} pixels, not {image_size}")
    if num_frames < 1:
        raise DataError(f"balls: num_frames must be at least 1, got {num_frames}")
    positions, velocities, colors = simulate(episode_seeds(split, num_episodes), num_frames)
    step = max(1, 400 // num_frames)  # about 50 MB of working memory
    for start in track(range(0, num_episodes, step), f"Drawing balls, {split}"):
        part = slice(start, start + step)
        flat = rearrange(positions[part], "e t n xy -> (e t) n xy")
        frames, changed = render(flat, repeat(colors[part], "e n c -> (e t) n c", t=num_frames), image_size)
        yield BallEpisodes(
            rearrange(frames, "(e t) h w c -> e t c h w", t=num_frames),
            positions[part],
            velocities[part],
            colors[part],
            rearrange(changed, "(e t) n -> e t n", t=num_frames),
            first_episode=start,
        )


def generate_balls(
    split: str = "train", *, num_episodes: int, image_size: int = CANVAS, num_frames: int = 100
) -> BallEpisodes:
    """The first episodes of a split, in memory (12 kB a frame at 64 pixels, 3 kB at 32).

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; the original has 5000, 200 and 200 episodes.
        num_episodes: How many; a longer run starts with the episodes of a shorter one.
        image_size: 64, 32 or 16.
        num_frames: Frames per episode; the original has 100.
    Raises:
        DataError: for an unknown split, another image size, or less than one episode or frame.
    Example:
        >>> generate_balls("val", num_episodes=1, image_size=32, num_frames=3).video.shape
        (1, 3, 3, 32, 32)
    """
    parts = list(iter_balls(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames))
    arrays = ("video", "positions", "velocities", "colors", "in_camera")
    return BallEpisodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in arrays))
