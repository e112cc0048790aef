"""Episodes of a protocol: their starts and goals, and what a policy makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..agents.acting import frame_of, goal_picture, perceived
from ..agents.base import Policy
from ..collecting import episode_seed, make_policy
from ..distributions import Sampler
from ..envs.resize import resize
from .protocol import ControlProtocol

SUCCESS = ("is_success", "success")
"""What environments call it in their ``info``."""
_HEIGHT = 128
"""Of pictures in films of agents that see none."""


@dataclass(frozen=True)
class Goal:
    """What is to be reached: its picture, and the state behind it; None where nobody asks.

    ``reached``: Another policy was there; it is not the environment's own task.
    """

    picture: Tensor | None = None
    state: np.ndarray | None = None
    reached: bool = False


def make_goal(env: Any, protocol: ControlProtocol, seed: int, *, picture: bool) -> Goal:
    """The goal of an episode; the environment has to be reset afterwards.

    Args:
        env: The environment.
        protocol: What goals are.
        seed: Of the episode.
        picture: Whether a policy asks for the picture of the environment's own goal.
    Raises:
        ConfigError: if there is no such goal.
    """
    observation, info = env.reset(seed=seed)
    if protocol.goals == "own":
        return Goal(goal_picture(env) if picture else None)
    env.action_space.seed(seed)
    act = make_policy(protocol.goal_policy, env)
    for _ in range(protocol.goal_steps):
        observation, _, terminated, truncated, info = env.step(act(observation, info))
        if terminated or truncated:
            break
    state = observation.get("state") if isinstance(observation, dict) else None
    return Goal(frame_of(observation), None if state is None else np.array(state), reached=True)


def measures(env: Any, goal: Goal, observation: Any, info: dict[str, Any]) -> dict[str, float]:
    """How far an environment is from a goal: numbers by name; ``"success"`` is one of them where it is known.

    Of its own task: the numbers that stand in ``info``. Of a state that was reached: the environment's
    ``goal_measures(state)``, where it has them, and the distance of pictures (root mean square, 0 to 1).
    """
    if not goal.reached:
        told = [name for name in SUCCESS if name in info]
        found = {"success": float(info[told[0]])} if told else {}
        return found | {name: float(value) for name, value in info.items()
                        if name not in SUCCESS and isinstance(value, (float, np.floating))}
    found = {}
    if goal.state is not None and env.has_wrapper_attr("goal_measures"):
        found |= {name: float(value) for name, value in env.get_wrapper_attr("goal_measures")(goal.state).items()}
    off = (frame_of(observation).float() - goal.picture.float()) / 255
    found["picture distance"] = float(off.square().mean().sqrt())
    return found


@dataclass(frozen=True)
class Played:
    """Episodes of one batch: a record each, and the frames of the first ones, uint8 ``[T, C, H, W]``, beside their
    goal's picture."""

    records: list[dict[str, Any]]
    films: list[tuple[Tensor, Tensor | None]]


def play(policy: Policy, envs: Sequence[Any], protocol: ControlProtocol, seed: int, episodes: Sequence[int], *,
         films: int = 0, on_step: Callable[[int], None] | None = None) -> Played:
    """Play some episodes of a seed, all at once.

    Args:
        policy: Who acts.
        envs: At least as many environments.
        protocol: What is done.
        seed: The run.
        episodes: Numbers of the episodes.
        films: How many of them are filmed.
        on_step: Told how many steps were made, while some episode goes on.
    """
    envs = envs[: len(episodes)]
    seeds = [episode_seed(seed, number) for number in episodes]
    goals = [make_goal(env, protocol, s, picture=policy.wants_goal) for env, s in zip(envs, seeds, strict=True)]
    pictures = torch.stack([goal.picture for goal in goals]) if policy.wants_goal else None
    begun = [env.reset(seed=s) for env, s in zip(envs, seeds, strict=True)]
    for env, s in zip(envs, seeds, strict=True):
        env.action_space.seed(s)
    running = [_Episode(env, goal, *start, filmed=i < films)
               for i, (env, goal, start) in enumerate(zip(envs, goals, begun, strict=True))]
    generator = torch.Generator().manual_seed(episode_seed(seed, 10**6 + episodes[0]))
    sampler = Sampler(deterministic=protocol.deterministic, generator=generator)
    carry = policy.start(len(envs), goal=pictures)
    for step in range(protocol.budget):
        if all(episode.over for episode in running):
            break
        if on_step is not None:
            on_step(step)
        frames, beside = perceived(policy, [episode.observation for episode in running])
        first = torch.full((len(envs),), step == 0)
        actions, carry = policy.act(frames, carry, first=first, sampler=sampler, **beside)
        for episode, action in zip(running, actions, strict=True):
            if not episode.over:
                episode.step(policy.action.for_env(action, episode.env.action_space), reach=protocol.goals == "reach")
    records = [{"seed": seed, "episode": number, **episode.record()}
               for number, episode in zip(episodes, running, strict=True)]
    return Played(records, [(torch.stack(e.frames), e.goal.picture) for e in running if e.frames])


class _Episode:
    """One that is being played."""

    def __init__(self, env: Any, goal: Goal, observation: Any, info: dict[str, Any], *, filmed: bool):
        self.env, self.goal, self.observation = env, goal, observation
        self.began = self.now = measures(env, goal, observation, info)
        self.frames = [self._shown()] if filmed and (frame_of(observation).numel() or env.render_mode) else []
        self.total, self.steps, self.over, self.terminated = 0.0, 0, False, False
        self.succeeded = bool(self.now.get("success", 0))

    def step(self, action: Any, *, reach: bool) -> None:
        self.observation, reward, self.terminated, truncated, info = self.env.step(action)
        self.total, self.steps = self.total + reward, self.steps + 1
        self.now = measures(self.env, self.goal, self.observation, info)
        self.succeeded |= bool(self.now.get("success", 0))
        self.over = self.terminated or truncated or (reach and self.succeeded)
        if self.frames:
            self.frames.append(self._shown())

    def _shown(self) -> Tensor:
        """The picture for films: what is seen, or what the environment draws where nobody sees pictures."""
        frame = frame_of(self.observation)
        if frame.numel():
            return frame
        picture = np.asarray(self.env.render())
        return frame_of(resize(picture, _HEIGHT, max(1, round(_HEIGHT * picture.shape[1] / picture.shape[0]))))

    def record(self) -> dict[str, Any]:
        known = "success" in self.began or "success" in self.now
        return {
            "steps": self.steps, "return": self.total, "success": self.succeeded if known else None,
            "start": {name: value for name, value in self.began.items() if name != "success"},
            "end": {name: value for name, value in self.now.items() if name != "success"},
        }
