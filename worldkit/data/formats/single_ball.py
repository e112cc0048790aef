"""Single ball: a red disc falls to the middle of the picture and goes on to the left or to the right, by chance.

The smallest video with two futures: nine frames, straight down from the upper edge to the centre in four steps, then
into the lower left or the lower right corner in four more. A model that predicts means puts half a ball in both.

Which way a ball goes, and where it is, equals the original; of its pixels one in 10,000 is off by one of 255. Sizes
below 64 are averages of the 64-pixel frame, as those of Balls.

Source: G-SWM (Lin et al. 2020), ``scripts/dataset_single_ball``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ...errors import DataError
from .balls import IMAGE_SIZES, render

RADIUS, NUM_FRAMES = 7.0, 9
SPLIT_SIZES = {"train": 10000, "val": 100, "test": 100}
_START, _TURN = np.array([32.0, 7.0]), np.array([32.0, 32.0])
_ENDS = np.array([[7.0, 57.0], [57.0, 57.0]])  # left, right


@dataclass(frozen=True)
class SingleBallEpisodes:
    """``E`` episodes of nine frames; what `generate_single_ball` returns.

    Attributes:
        video: uint8 ``[E, 9, 3, S, S]``, RGB.
        positions: float64 ``[E, 9, 1, 2]``, the ball's centre ``(x, y)`` in pixels of the 64-pixel canvas.
        right: bool ``[E]``, which way it goes.
    """

    video: np.ndarray
    positions: np.ndarray
    right: np.ndarray


def sides(split: str, num_episodes: int) -> np.ndarray:
    """Which way the balls of the first episodes of a split go, bool ``[num_episodes]``; True: to the right.

    Raises:
        DataError: for an unknown split, or a number of episodes that it has not.
    Example:
        >>> sides("train", 6).tolist()
        [True, True, True, True, False, True]
    """
    if split not in SPLIT_SIZES:
        raise DataError(f"single-ball has no split '{split}': use one of {', '.join(SPLIT_SIZES)}")
    if not 1 <= num_episodes <= SPLIT_SIZES[split]:
        raise DataError(f"single-ball: {split} has from 1 to {SPLIT_SIZES[split]} episodes, not {num_episodes}")
    names = list(SPLIT_SIZES)
    before = sum(SPLIT_SIZES[name] for name in names[: names.index(split)])  # one stream for all splits
    return np.random.RandomState(0).rand(before + num_episodes)[before:] > 0.5


def generate_single_ball(split: str = "train", *, num_episodes: int, image_size: int = 64) -> SingleBallEpisodes:
    """The first episodes of a split.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``, of 10000, 100 and 100 episodes.
        num_episodes: How many.
        image_size: 64, 32 or 16.
    Raises:
        DataError: as `sides`, or for another image size.
    Example:
        >>> generate_single_ball("val", num_episodes=2, image_size=32).video.shape
        (2, 9, 3, 32, 32)
    """
    if image_size not in IMAGE_SIZES:
        raise DataError(f"single-ball is drawn at {', '.join(map(str, IMAGE_SIZES))} pixels, not {image_size}")
    right = sides(split, num_episodes).astype(int)
    step = np.arange(5)[:, None] / 4
    down = _START + step * (_TURN - _START)
    paths = np.stack([np.concatenate([down, _TURN + step[1:] * (end - _TURN)]) for end in _ENDS])[:, :, None]
    red = np.tile([[[1.0, 0.0, 0.0]]], (NUM_FRAMES, 1, 1))
    videos = np.stack([render(path, red, image_size, radius=RADIUS)[0] for path in paths])
    return SingleBallEpisodes(rearrange(videos[right], "e t h w c -> e t c h w"), paths[right], right.astype(bool))
