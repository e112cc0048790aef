"""`evaluate_control`: episodes of several policies under one protocol; what was played before is not played again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..agents.acting import check_fits, frame_shape_of, require_goal_picture
from ..agents.actions import ActionSpec
from ..agents.base import Policy
from ..agents.simple import RandomPolicy, ScriptedPolicy
from ..envs import make_env
from ..errors import ConfigError
from ..progress import Meter
from ..registry import suggestion
from ..viz import save_gif
from .film import film
from .play import play
from .protocol import ControlProtocol
from .results import ControlResults

BASELINES = ("random", "scripted")
FILMED = 4
"""Episodes of the first seed that are kept as an animation."""


def baseline(name: str, envs: Sequence[Any]) -> Policy:
    """A policy that learns nothing, by its name.

    Raises:
        ConfigError: for an unknown name, or an environment without a script.
    """
    if name not in BASELINES:
        raise ConfigError(f"no baseline '{name}'.{suggestion(name, BASELINES)} Known: {', '.join(BASELINES)}; agents "
                          "are given by their folders, --agent FOLDER")
    return RandomPolicy(ActionSpec.of_space(envs[0].action_space)) if name == "random" else ScriptedPolicy(envs)


def evaluate_control(
    policies: Mapping[str, str | Policy | Sequence[Policy]],
    protocol: ControlProtocol,
    *,
    out: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
    make: Callable[[], Any] | None = None,
    show_progress: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> ControlResults:
    """Let policies act under a protocol.

    Every policy meets the same episodes: the same starts, the same goals. What has been played is stored at once, so an
    interruption loses the episodes at hand, and the same call goes on.

    Args:
        policies: Name -> a policy; several, one for each seed (trained with different seeds); or ``"random"``,
            ``"scripted"``.
        protocol: What is done.
        out: Folder for episodes and animations; None keeps nothing.
        about: Name -> what is to be noted of a policy, plain values: another one under the same name is refused.
        make: Makes the environment; default: as the protocol says.
        show_progress: Show a progress bar.
        on_step: Told how many steps the episodes at hand have made, while one of them goes on.
    Raises:
        ConfigError: a policy that does not fit, a goal that there is not, or a folder of another protocol.
    Example:
        >>> found = evaluate_control({"random": "random"}, ControlProtocol(env="games/catch", size=16, episodes=2))
        >>> found.interval("random", "return").n
        6
    """
    make = make or (lambda: make_env(protocol.env, size=protocol.size, **protocol.env_options))
    together = min(protocol.together, protocol.episodes)
    envs: list[Any] = []
    try:
        envs += [make() for _ in range(together)]
        frame_shape_of(envs[0])  # everybody acts on pixels, or on vectors under names
        runs = {name: _runs(given, envs, protocol) for name, given in policies.items()}
        for each in runs.values():
            for policy in {id(p): p for p in each.values()}.values():
                check_fits(policy, envs[0])
                if protocol.goals == "own" and policy.wants_goal:
                    require_goal_picture(envs[0])
        results = ControlResults(out, protocol, {name: (about or {}).get(name, name) for name in policies})
        total = len(policies) * len(protocol.seeds) * protocol.episodes
        with Meter(f"acting in {protocol.env}", total=total, noun="episode", enabled=show_progress) as meter:
            done = 0
            for name, by_seed in runs.items():
                for seed, policy in by_seed.items():
                    def told(step: int, done: int = done, name: str = name) -> None:
                        meter.update(done, terms=[name, f"step {step} of at most {protocol.budget}"])

                    _play_missing(results, name, policy, envs, seed, on_step or told)
                    done += protocol.episodes
                    meter.update(done, terms=[name])
    finally:
        for env in envs:
            env.close()
    return results


def _runs(given: Any, envs: Sequence[Any], protocol: ControlProtocol) -> dict[int, Policy]:
    """Seed -> who acts."""
    if isinstance(given, str):
        given = baseline(given, envs)
    if isinstance(given, Policy):
        return dict.fromkeys(protocol.seeds, given)
    if len(given) != len(protocol.seeds):
        raise ConfigError(f"{len(given)} agents for {len(protocol.seeds)} seeds: give one, or one for each seed")
    return dict(zip(protocol.seeds, given, strict=True))


def _play_missing(results: ControlResults, name: str, policy: Policy, envs: Sequence[Any], seed: int,
                  on_step: Callable[[int], None]) -> None:
    """Play what a seed still lacks, in batches that do not depend on where an earlier call stopped."""
    protocol, missing = results.protocol, set(results.missing(name, seed))
    for start in range(0, protocol.episodes, len(envs)):
        numbers = range(start, min(start + len(envs), protocol.episodes))
        if missing.isdisjoint(numbers):
            continue
        shown = results.folder is not None and seed == protocol.seeds[0] and start == 0
        played = play(policy, envs, protocol, seed, numbers, films=FILMED if shown else 0, on_step=on_step)
        if played.films:
            save_gif(film(played.films), Path(results.folder) / f"{name}.gif", fps=10)
        results.add(name, [record for record in played.records if record["episode"] in missing])
