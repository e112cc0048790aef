"""Atari as IRIS and as DIAMOND prepare it: the order of shrinking, pooling and ends decides what their agents see.

Both hold an action for four frames of an emulator without sticky actions, sum its rewards and begin with no-ops. IRIS
shrinks every frame (bilinear, as Pillow does) and then takes the brighter of the last two; DIAMOND takes the brighter
and then shrinks (by area, as OpenCV does). Where the game is over within the four frames, both show what they have kept
from before.

Sources: eloialonso/iris @ 24326aa, eloialonso/diamond @ 5bcd159, written from their description.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ...errors import ConfigError, require_extra

PROTOCOLS = ("iris", "diamond")
HELD = 4
"""Frames of an action."""
_FRAMES = {"iris": (20_000, 108_000), "diamond": (108_000, 108_000)}  # of a game, in training and tests
_NOOPS = {"iris": ((1, 30), (1, 1)), "diamond": ((1, 30), (1, 30))}


class Papers(gymnasium.Wrapper, RecordConstructorArgs):
    """A game without frame skip, seen and ended as a paper's code does.

    Args:
        env: ``GAMENoFrameskip-v4`` with ``obs_type="rgb"``.
        protocol: ``"iris"`` or ``"diamond"``.
        training: A lost life ends the episode, and `reset` goes on in the same game, whatever its seed; otherwise
            episodes are games, decided by their seeds.
        noops: How many no-ops a game begins with, or (least, most). None: as the paper has it.
        max_frames: Frames after which a game is cut off. None: as the paper has it.
        side: Of the pictures.
    Raises:
        ConfigError: an unknown protocol, or numbers that cannot be.
    """

    def __init__(self, env: gymnasium.Env, protocol: Literal["iris", "diamond"], *, training: bool = False,
                 noops: int | tuple[int, int] | None = None, max_frames: int | None = None, side: int = 64):
        RecordConstructorArgs.__init__(self, protocol=protocol, training=training, noops=noops, max_frames=max_frames,
                                       side=side)
        super().__init__(env)
        if protocol not in PROTOCOLS:
            raise ConfigError(f"Atari is prepared as in {' or '.join(map(repr, PROTOCOLS))}, not as in {protocol!r}")
        which = 0 if training else 1
        low, high = _NOOPS[protocol][which] if noops is None else (noops, noops) if isinstance(noops, int) else noops
        if not 0 <= low <= high:
            raise ConfigError(f"noops are a number or (least, most), got {noops!r}")
        self._iris, self._training, self._noops = protocol == "iris", training, (low, high)
        self._limit, self._side = max_frames or _FRAMES[protocol][which], side
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self._over, self._frames, self._lives = True, 0, 0
        self._kept = np.zeros((2, 1, 1, 3), np.uint8)  # the last two frames of an action
        self._shown = np.zeros((side, side, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new game, or, after a lost life in training, what comes next in this one."""
        if not self._over and self._training:
            if self._iris:
                _, _, info = self._held(0)
            else:
                info = {}
            self._lives = self._count_lives()
            return self._shown.copy(), {**info, "goes_on": True}
        frame, info = self.env.reset(seed=seed, options=options)
        self._frames, self._over = 0, False
        low, high = self._noops
        count = low if low == high else int(self.env.unwrapped.np_random.integers(low, high + 1))
        for _ in range(count):
            frame, _, ended, cut, _ = self._tick(0)
            if ended or cut:
                frame, info = self.env.reset(options=options)
                self._frames, self._over = 0, False
        frame = self._small(frame) if self._iris else frame
        # IRIS's buffers are of the step before, whatever game that was in; DIAMOND's hold this frame and nothing
        self._kept = self._kept if self._iris and self._kept.shape[1:] == frame.shape else np.zeros((2, *frame.shape),
                                                                                                    np.uint8)
        if not self._iris:
            self._kept[0] = frame
        self._shown = frame if self._iris else self._pooled()
        self._lives = self._count_lives()
        return self._shown.copy(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Four frames; ``info["life_lost"]`` says whether that cost a life."""
        reward, (ended, cut), info = self._held(action)
        lives = self._count_lives()
        lost = lives < self._lives and (lives > 0 or not self._iris)
        self._lives = lives
        terminated = bool(ended or (lost and self._training))
        return self._shown.copy(), reward, terminated, bool(cut), {**info, "life_lost": lost}

    def _tick(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One frame of the emulator."""
        frame, reward, ended, cut, info = self.env.step(action)
        self._frames += 1
        cut = cut or (self._frames >= self._limit and not ended)
        self._over = bool(ended or cut)
        return frame, float(reward), bool(ended), bool(cut), info

    def _held(self, action: Any) -> tuple[float, tuple[bool, bool], dict[str, Any]]:
        """An action for four frames, or until the game is over."""
        total, ended, cut, info = 0.0, False, False, {}
        for held in range(HELD):
            frame, reward, ended, cut, info = self._tick(action)
            total += reward
            if (ended or cut) and not self._iris:
                break  # before the frame is kept
            if held >= HELD - 2:
                self._kept[held - HELD + 2] = self._small(frame) if self._iris else frame
            if ended or cut:
                break
        self._shown = self._pooled()
        return total, (ended, cut), info

    def _pooled(self) -> np.ndarray:
        brighter = self._kept.max(0)
        return brighter if self._iris else by_area(brighter, self._side)

    def _small(self, frame: np.ndarray) -> np.ndarray:
        image = require_extra("PIL.Image", "video", "Atari as IRIS sees it")
        return np.asarray(image.fromarray(frame).resize((self._side, self._side), image.BILINEAR))

    def _count_lives(self) -> int:
        return int(self.env.unwrapped.ale.lives())


def by_area(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture shrunk to a square as OpenCV's ``INTER_AREA`` does, to the bit.

    Args:
        picture: uint8 ``[h, w, C]``, both sides at least ``side``.
        side: Of the square.
    Returns:
        uint8 ``[side, side, C]``.
    Example:
        >>> by_area(np.arange(16, dtype=np.uint8).reshape(4, 4, 1), 2)[..., 0].tolist()
        [[2, 4], [10, 12]]
    """
    columns, shares = _covered(picture.shape[1], side)
    wide, found = picture.astype(np.float32), np.zeros((picture.shape[0], side, picture.shape[2]), np.float32)
    for column, share in zip(columns, shares, strict=True):  # the order of sums decides how halves are rounded
        found += wide[:, column] * share[:, None]
    rows, shares = _covered(picture.shape[0], side)
    small = found[rows[0]] * shares[0][:, None, None]
    for row, share in zip(rows[1:], shares[1:], strict=True):
        small += found[row] * share[:, None, None]
    return np.rint(small).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _covered(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """What each new pixel covers of the old ones, one after the other: places and shares ``[most, target]``."""
    scale, taps = source / target, []
    for pixel in range(target):
        low = pixel * scale
        high, cell = low + scale, min(scale, source - low)
        last = min(int(np.floor(high)), source - 1)
        first = min(int(np.ceil(low)), last)
        found = [(first - 1, (first - low) / cell)] if first - low > 1e-3 else []
        found += [(old, 1 / cell) for old in range(first, last)]
        if high - last > 1e-3:
            found.append((last, min(high - last, 1.0, cell) / cell))
        taps.append(found)
    most = max(map(len, taps))
    filled = [found + [(0, 0.0)] * (most - len(found)) for found in taps]
    places = np.array([[place for place, _ in found] for found in filled]).T
    return places, np.array([[share for _, share in found] for found in filled], np.float32).T
