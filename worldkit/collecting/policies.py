"""Who acts while episodes are collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..registry import suggestion

Policy = Callable[[Any, dict[str, Any]], Any]
"""Observation and info -> action. One that has ``begin(seed)`` is told when an episode begins."""
NAMES = ("random", "scripted")


@dataclass(frozen=True)
class PerEnvironment:
    """A policy that remembers, and so is made anew for every environment.

    Attributes:
        make: Environment -> policy.
    """

    make: Callable[[Any], Policy]


def make_policy(policy: str | Policy | PerEnvironment, env: Any) -> Policy:
    """A policy by its name; a function is one already.

    Args:
        policy: ``"random"`` (any action of the space), ``"scripted"`` (what the environment's own ``scripted_action()``
            says: the games', the scenes', PushT's near-block play, OGBench's oracles), or a function
            ``policy(observation, info) -> action``, or a `PerEnvironment`.
        env: Whose actions.
    Raises:
        ConfigError: for an unknown name, or an environment without a scripted policy.
    """
    if isinstance(policy, PerEnvironment):
        return policy.make(env)
    if callable(policy):
        return policy
    if policy not in NAMES:
        raise ConfigError(f"no policy '{policy}'.{suggestion(str(policy), NAMES)} Known: {', '.join(NAMES)}; the "
                          "command line takes an agent's folder, too")
    if policy == "random":
        return lambda observation, info: env.action_space.sample()
    if not env.has_wrapper_attr("scripted_action"):
        raise ConfigError(
            f"{name_of(env)} has no scripted policy; the games, the scenes, pusht and OGBench's cube tasks have, "
            "and OGBench's scene and puzzle with -o mode=data_collection. Take --policy random, or in Python "
            "policy=FUNCTION"
        )
    act = env.get_wrapper_attr("scripted_action")
    return lambda observation, info: act()


def begin(policy: Policy, seed: int | None) -> None:
    """Tell a policy that an episode begins, if it wants to know."""
    if (told := getattr(policy, "begin", None)) is not None:
        told(seed)


def name_of(env: Any) -> str:
    """What an environment is called, for messages."""
    return f"environment '{env.spec.id}'" if env.spec is not None else f"environment {type(env.unwrapped).__name__}"
