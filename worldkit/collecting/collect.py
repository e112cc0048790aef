"""Collect episodes of an environment into a data set."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..progress import Meter
from .episode import check_env, play_episode
from .export import EPISODES, Export
from .folder import EpisodeFolder
from .policies import PerEnvironment, Policy, make_policy, name_of
from .pool import Pool, play_episodes


@dataclass(frozen=True)
class Collected:
    """What was collected.

    Attributes:
        path: The data set.
        before: Episodes that it held.
        lengths: Frames of every new one.
        returns: Sum of rewards of every new one.
        terminated: New ones that ended by themselves, and were not cut off.
    """

    path: Path
    before: int
    lengths: tuple[int, ...]
    returns: tuple[float, ...]
    terminated: int


def collect(
    env: Any,
    out: str | os.PathLike[str],
    *,
    policy: str | Policy | PerEnvironment = "random",
    episodes: int,
    seed: int = 0,
    append: bool = False,
    max_steps: int | None = None,
    num_envs: int = 1,
    to: str = EPISODES,
    enabled: bool = False,
) -> Collected:
    """Collect episodes; each is stored when it is over, so an interruption loses those at hand.

    Episode number n of a folder is begun with a seed made of ``seed`` and n, whoever plays it and when: a collection by
    several environments, or one that was interrupted and goes on, is the same as any other.

    Args:
        env: An environment of `worldkit.envs.make_env`; it is not closed.
        out: Folder; `worldkit.data.open_dataset` reads it, and `worldkit train --data`.
        policy: ``"random"``, ``"scripted"``, or ``policy(observation, info) -> action``; with several environments, it
            is asked for one after the other, so one that remembers is a `PerEnvironment`: for an agent,
            ``PerEnvironment(lambda env: Acting(agent, env))`` (`worldkit.agents.Acting`).
        episodes: How many.
        seed: Another seed, other episodes.
        append: Add to the episodes that ``out`` holds; numbers that are missing come first.
        max_steps: Cut episodes off after so many steps; None: where the environment ends them.
        num_envs: How many environments play at once, each in a process of its own; ``env`` itself only if it is 1.
        to: Format of ``out``, see `worldkit.data.list_writers`. In another one than ``"npz"`` it is written when all
            episodes are there; they are in the folder ``OUT.episodes`` then.
        enabled: Show a progress bar.
    Raises:
        ConfigError: if the environment has no pixels, or actions that cannot be stored, or no scripted policy, or, for
            several, cannot be made again.
        EnvError: if one of several processes died; what an environment raises there is raised here, too.
        DataError: if ``out`` holds something else, or episodes and not ``append``, or if the format cannot hold them.
    Example:
        >>> import tempfile
        >>> from worldkit.envs import make_env
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = collect(make_env("games/catch", size=16), folder + "/data", policy="scripted", episodes=2)
        >>> found.lengths, found.returns
        ((151, 151), (10.0, 10.0))
    """
    for name, number in (("episodes", episodes), ("max_steps", max_steps), ("num_envs", num_envs)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")
    check_env(env)
    make_policy(policy, env)  # complains before a folder is made
    spec = env.spec
    told = {} if spec is None else {k: v for k, v in spec.kwargs.items() if k != "env_id"}
    about = {"environment": name_of(env) if spec is None else spec.id, "options": _plain(told),
             "action_space": str(env.action_space)}
    with ExitStack() as stack:
        pool = None
        if min(num_envs, episodes) > 1:
            pool = stack.enter_context(
                Pool(env, min(num_envs, episodes), max_steps=max_steps, scripted=policy == "scripted"))
        export = None if to == EPISODES else Export(out, to, fps=env.metadata.get("render_fps"), append=append)
        folder = EpisodeFolder(out if export is None else export.episodes, about=about, append=append)
        jobs = islice(((number, episode_seed(seed, number)) for number in folder.free_numbers()), episodes)
        if pool is not None:
            played = play_episodes(pool, partial(make_policy, policy), jobs)
        else:
            act = make_policy(policy, env)
            played = ((number, play_episode(env, act, seed=own, max_steps=max_steps)) for number, own in jobs)
        meter = stack.enter_context(
            Meter(f"collecting {about['environment']}", total=episodes, noun="episode", enabled=enabled))
        new: dict[int, tuple[int, float, bool]] = {}
        for number, episode in played:
            folder.add(episode, number)
            if export is not None and not new:
                export.rehearse()
            state = episode["state"]
            new[number] = len(episode["video"]), float(state["reward"].sum()), bool(state["terminated"][-1])
            lengths, returns, terminated = zip(*(new[number] for number in sorted(new)), strict=True)
            meter.update(len(new), terms=[f"return {np.mean(returns):.4g}", f"{sum(lengths)} frames"])
    if export is not None:
        export.write()
    return Collected(Path(out).expanduser(), folder.found, lengths, returns, sum(terminated))


def episode_seed(seed: int, number: int) -> int:
    """The seed of an episode by its number in the folder.

    Example:
        >>> episode_seed(0, 0) != episode_seed(0, 1) != episode_seed(1, 0)
        True
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def _plain(value: Any) -> Any:
    """Plain values as JSON has them; others as text."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
