"""Play of a pendulum: a rod that a motor is too weak to lift at once; made on the spot, with actions and rewards.

The equations and rewards of Gymnasium's ``Pendulum-v1`` as a data set: the rod (length and mass 1, gravity 10) turns by
its angular velocity, which gravity and the motor change, 20 times a second; angle 0 is up. Action ``[1]`` in [-1, 1]
is a torque of 2 at most. The reward of a step is least where the rod hangs, turns or the motor works, and 0 where it
stands still. Half of the episodes (0, 2, ...) are played at random, torques that last some steps; in the others the
rod is swung up by its energy and held there against disturbances, so that all angles are seen and it seldom stands
still.

Only sums, products, quotients and square roots of float64 are used, so every machine makes the same episodes; episode
``i`` of a split is the same however many are made, and begins the same however long it is. Frames are drawn by
ourselves: a red rod on white around a black axle, about where Gymnasium draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import track
from ..splits import SPLITS, check_split

GRAVITY, STEP, TORQUE, FASTEST = 10.0, 0.05, 2.0, 8.0
"""Of the pendulum, in SI units: m/s2, s, Nm, rad/s."""
NUM_FRAMES = 100
CHANGE = 0.15
"""Chance that a torque of random play ends in a step."""
NOISE = 0.7
"""How much of such a torque disturbs the player that swings the rod up."""
GAIN, STIFF, DAMP, NEAR = 4.0, 5.0, 1.0, 0.5
"""Of that player: torque for an angular velocity and for the energy that lacks; near the top (in rad) for angle and
angular velocity."""
VIEW, WIDTH, AXLE = 4.4, 0.1, 0.05
"""What a picture's side shows, half of the rod's thickness, and the axle's radius, in lengths of the rod."""
COLORS = np.array([(255, 255, 255), (204, 77, 77), (0, 0, 0)], np.float64)
"""Of the ground, the rod and the axle."""


@dataclass(frozen=True)
class PendulumEpisodes:
    """``E`` episodes of ``T`` frames; what `generate_pendulum` returns. Row t of what is done leads to frame t + 1.

    Attributes:
        video: uint8 ``[E, T, 3, S, S]``, RGB.
        action: float32 ``[E, T, 1]`` in [-1, 1], half of the torque.
        reward: float32 ``[E, T]``, from -16.3 to 0.
        observation: float32 ``[E, T, 3]``: cosine and sine of the angle, 0 being up, and the angular velocity in rad/s.
        first_episode: Number of the first of these episodes in its split.
    """

    video: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    observation: np.ndarray
    first_episode: int = 0


def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine by sums and products, the same on every machine; angles from -pi to pi.

    Example:
        >>> c, s = cos_sin(np.array([0.0, 1.0, -3.0]))
        >>> bool(np.allclose(c, np.cos([0, 1, -3])) and np.allclose(s, np.sin([0, 1, -3])))
        True
    """
    x = angle / 8
    y = x * x
    s = x * (1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72))))
    c = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56)))
    for _ in range(3):  # of twice the angle
        c, s = c * c - s * s, 2 * c * s
    return c, s


def advance(angle: np.ndarray, speed: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A step: angles in [-pi, pi), angular velocities and rewards, float64 ``[E]`` each.

    Args:
        angle, speed: Before it.
        action: What is done, in [-1, 1].
    """
    torque = TORQUE * action
    reward = -(angle * angle + 0.1 * speed * speed + 0.001 * torque * torque)
    speed = np.clip(speed + (1.5 * GRAVITY * cos_sin(angle)[1] + 3 * torque) * STEP, -FASTEST, FASTEST)
    angle = angle + speed * STEP
    angle = np.where(angle >= math.pi, angle - 2 * math.pi, np.where(angle < -math.pi, angle + 2 * math.pi, angle))
    return angle, speed, reward


def swing_up(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """What the player does: pumps energy until the rod has what it needs to stand, and holds it near the top."""
    lacks = 1.5 * GRAVITY * (1 - cos_sin(angle)[0]) - 0.5 * speed * speed  # of the energy, over the inertia
    pumped = GAIN * lacks * np.where(speed < 0, -1.0, 1.0)
    held = -STIFF * angle - DAMP * speed
    return np.clip(np.where(np.abs(angle) < NEAR, held, pumped), -1, 1)


def simulate(split: str, first: int, num_episodes: int, num_frames: int) -> dict[str, np.ndarray]:
    """Episodes ``first`` and following without their frames: the other fields of `PendulumEpisodes` by name."""
    numbers = range(first, first + num_episodes)
    start = np.stack([np.random.default_rng([SPLITS.index(split), i]).random(2) for i in numbers])
    draws = np.stack([np.random.default_rng([SPLITS.index(split), i, 1]).random((num_frames, 2)) for i in numbers])
    angle, speed = math.pi * (2 * start[:, 0] - 1), 2 * start[:, 1] - 1
    at_random, held = np.array(numbers) % 2 == 0, np.zeros(num_episodes)
    rows = []
    for t in range(num_frames):
        change, wish = draws[:, t, 0], 2 * draws[:, t, 1] - 1
        held = np.where((change < CHANGE) | (t == 0), wish, held)
        action = np.where(at_random, held, np.clip(swing_up(angle, speed) + NOISE * held, -1, 1))
        action = action.astype(np.float32).astype(np.float64)  # what is stored is what was done
        c, s = cos_sin(angle)
        seen = np.stack([c, s, speed], -1)
        angle, speed, reward = advance(angle, speed, action)
        rows.append((action[:, None], reward, seen))
    action, reward, seen = (np.stack(part, 1).astype(np.float32) for part in zip(*rows, strict=True))
    return {"action": action, "reward": reward, "observation": seen}


def tip(observation: np.ndarray) -> np.ndarray:
    """Where the rod ends, ``[..., 1, 2]``: ``(y, x)`` in the picture, from -1 to 1, of observations ``[..., 3]``."""
    return -observation[..., None, :2] / (VIEW / 2)  # positive angles turn to the left, as Gymnasium's


def draw(observation: np.ndarray, image_size: int) -> np.ndarray:
    """Frames uint8 ``[E, T, 3, S, S]`` of observations ``[E, T, 3]``."""
    pixel = VIEW / image_size
    line = ((np.arange(image_size) + 0.5) * pixel - VIEW / 2).astype(np.float64)
    y, x = -line[:, None], line[None, :]  # the rod stands where y is 1
    c, s = (observation[..., i, None, None].astype(np.float64) for i in (0, 1))
    up, right = c, -s  # positive angles turn to the left, as Gymnasium's
    along = np.clip(y * up + x * right, 0, 1)
    off = np.sqrt((y - along * up) ** 2 + (x - along * right) ** 2)
    rod = np.clip((WIDTH - off) / pixel + 0.5, 0, 1)[..., None]
    axle = np.clip((AXLE - np.sqrt(y * y + x * x)) / pixel + 0.5, 0, 1)[..., None]
    ground, red, black = COLORS
    picture = (1 - axle) * ((1 - rod) * ground + rod * red) + axle * black
    return np.moveaxis(np.floor(picture + 0.5).astype(np.uint8), -1, 2)


def iter_pendulum(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int = NUM_FRAMES
) -> Iterator[PendulumEpisodes]:
    """The same as `generate_pendulum`, a few episodes at a time, for writing to disk without holding all frames.

    Raises:
        DataError: for an unknown split, a picture of fewer than 8 pixels, or less than one episode or frame.
    """
    check_split(split)
    for name, value, least in (("image_size", image_size, 8), ("num_episodes", num_episodes, 1),
                               ("num_frames", num_frames, 1)):
        if value < least:
            raise DataError(f"pendulum: {name} must be at least {least}, got {value}")
    step = max(1, 2000 // num_frames)
    for start in track(range(0, num_episodes, step), f"Drawing pendulums, {split}"):
        made = simulate(split, start, min(step, num_episodes - start), num_frames)
        yield PendulumEpisodes(draw(made["observation"], image_size), first_episode=start, **made)


def generate_pendulum(
    split: str = "train", *, num_episodes: int, image_size: int = 32, num_frames: int = NUM_FRAMES
) -> PendulumEpisodes:
    """The first episodes of a split, in memory (3 kB a frame at 32 pixels).

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_episodes: How many; a longer run starts with the episodes of a shorter one.
        image_size: Pixels of a side, at least 8.
        num_frames: Frames per episode.
    Raises:
        DataError: as `iter_pendulum`.
    Example:
        >>> episodes = generate_pendulum("val", num_episodes=2)
        >>> episodes.video.shape, bool(episodes.reward[1, -1] > -0.5)  # the second was swung up
        ((2, 100, 3, 32, 32), True)
    """
    parts = list(iter_pendulum(split, num_episodes=num_episodes, image_size=image_size, num_frames=num_frames))
    names = [field.name for field in fields(PendulumEpisodes) if field.name != "first_episode"]
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return PendulumEpisodes(**whole)
