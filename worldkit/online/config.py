"""Options of training by acting: how much is acted and learned, and when it is looked at."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..config import Config

LIMIT = 10_000
"""Steps after which an episode is cut off if nobody says when."""


class OnlineConfig(Config):
    """How an agent acts and learns. A step is an action in one environment; a `worldkit.make_env` with ``repeat`` holds
    it for several steps of its own.

    Attributes:
        steps: Stop after so many steps, all environments together.
        seconds: Stop after so much time of acting and learning instead (whatever comes first).
        num_envs: Environments that are acted in at once.
        processes: Each of them in a process of its own: pays where a step takes milliseconds.
        env_options: Options of the environment, ``repeat`` among them.
        eval_env_options: On top of these where it is scored: agents may learn from lives and be scored by games.
        max_steps: Steps after which an episode is cut off; None: where the environment ends it, or `LIMIT`.
        prefill: Steps before anything is learned.
        prefill_by: Who acts then: ``"random"`` actions, or the ``"agent"`` as it is.
        pretrain: Updates right behind them.
        train_ratio: Steps that are learned from for each step that is acted: an update of 16 clips of 64 transitions
            every 16 steps is 64.
        every: Steps between bursts of updates; 1: as soon as one is due.
        length: Transitions of a clip.
        cross: Clips may go on in the next episode. Models that carry nothing over such a border can learn from them.
        draw: Clips are drawn evenly from all ``"steps"``; or an episode is drawn, then a clip in it (``"episodes"``),
            and the last clip of an episode as often as one clip's length of others (``"ends"``, Dreamer v2).
        queue: Every new clip is learned from once before others are drawn.
        capacity: Steps that are kept in memory; older ones are forgotten, their files stay.
        reward: What is learned as the reward: the environment's ``"own"``, or its ``"tanh"`` (Dreamer v2 in Atari).
        context: States that were found last time are where a clip begins, instead of nothing (replay context).
        eval_every: Steps between evaluations; 0 = only at the end.
        eval_episodes: Of an evaluation.
        save_every: Steps between checkpoints; 0 = at every evaluation.
        film_steps: Steps that are imagined beside a real episode, in pictures of the run; 0 = no pictures.
    """

    steps: int = Field(default=100_000, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    num_envs: int = Field(default=1, gt=0)
    processes: bool = False
    env_options: dict[str, Any] = {}
    eval_env_options: dict[str, Any] = {}
    max_steps: int | None = Field(default=None, gt=0)
    prefill: int = Field(default=1000, ge=0)
    prefill_by: Literal["random", "agent"] = "random"
    pretrain: int = Field(default=0, ge=0)
    train_ratio: float = Field(default=32.0, ge=0)
    every: int = Field(default=1, gt=0)
    length: int = Field(default=64, gt=0)
    cross: bool = True
    draw: Literal["steps", "episodes", "ends"] = "steps"
    queue: bool = False
    capacity: int = Field(default=1_000_000, gt=0)
    reward: Literal["own", "tanh"] = "own"
    context: bool = False
    eval_every: int = Field(default=10_000, ge=0)
    eval_episodes: int = Field(default=10, gt=0)
    save_every: int = Field(default=0, ge=0)
    film_steps: int = Field(default=45, ge=0)
