"""Agents that were trained by acting, in their environments again: for scores and films."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..agents import check_fits, load_agent
from ..agents.base import Agent
from ..control import ControlProtocol
from ..control.film import film
from ..control.play import play
from ..envs import make_env
from ..errors import ConfigError
from ..storage.folders import read_json
from ..training.record import RECORD_FILE
from ..viz import save_gif
from .checkpoint import find_agent
from .config import LIMIT, OnlineConfig
from .recipes import SCALED, seen_as


@dataclass(frozen=True)
class ActingAgent:
    """An agent and its environment.

    Attributes:
        agent: Loaded.
        folder: Its folder.
        env, env_options: The environment.
        make: Makes it.
        budget: Steps of an episode at most.
    """

    agent: Agent
    folder: Path
    env: str
    env_options: Mapping[str, Any]
    make: Callable[[], Any]
    budget: int

    def protocol(self, *, episodes: int, seeds: list[int], deterministic: bool) -> ControlProtocol:
        """Episodes of it."""
        _, height, width = self.agent.frame_shape
        return ControlProtocol.parse({
            "env": self.env, "env_options": dict(self.env_options), "size": [height, width], "budget": self.budget,
            "episodes": episodes, "seeds": seeds, "deterministic": deterministic})


def load_acting(place: str | Path, *, env: str | None = None, env_options: Mapping[str, Any] | None = None,
                budget: int | None = None, device: str | None = None) -> ActingAgent:
    """The agent of a run folder (``best/``, else the newest checkpoint), or of an agent's folder, and its environment.

    Args:
        place: Folder.
        env: Another environment than the one it was trained in; its actions must be the same.
        env_options: Options on top of those of the training.
        budget: Steps of an episode.
        device: Where it computes.
    Raises:
        CheckpointError: there is no agent.
        ConfigError: an environment that does not fit, or none is known.
    """
    folder = find_agent(place)
    agent = load_agent(folder)
    record = _record(Path(place), folder)
    online = OnlineConfig.parse(record.get("online", {}))
    name = env or record.get("facts", {}).get("env") or agent.environment
    if name is None:
        raise ConfigError(f"{folder} does not say where it acts: --env ENV does")
    options = {**SCALED, **online.env_options, **online.eval_env_options, **(env_options or {})}
    make = partial(make_env, name, **seen_as(agent.frame_shape, vectors=bool(agent.wants_vectors)), **options)
    with make() as one:
        check_fits(agent, one)
    if device is not None:
        agent.to(device)
        if agent.needs_model:
            agent.model.to(device)
    return ActingAgent(agent, folder, name, options, make, budget or online.max_steps or LIMIT)


def _record(place: Path, agent: Path) -> dict[str, Any]:
    """``run.json`` of the run that a folder is, or lies in; empty if there is none."""
    for folder in (place, agent, *agent.resolve().parents[:3]):
        if (folder / RECORD_FILE).is_file():
            return read_json(folder / RECORD_FILE)
    return {}


def film_episodes(acting: ActingAgent, protocol: ControlProtocol, out: Path) -> Iterator[tuple[Path, float, int]]:
    """Play episodes and write a GIF of each.

    Yields:
        File, return and steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    with acting.make() as env:
        for number in range(protocol.episodes):
            played = play(acting.agent, [env], protocol, protocol.seeds[0], [number], films=1)
            path = out / f"seed-{protocol.seeds[0]}-episode-{number}.gif"
            save_gif(film(played.films), path, fps=15)
            yield path, played.records[0]["return"], played.records[0]["steps"]
