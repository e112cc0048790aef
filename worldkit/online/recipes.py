"""From a preset and an environment to a trained agent: what ``worldkit train-agent`` does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..agents import create_agent
from ..agents.base import Agent
from ..agents.presets import reads_vectors, require_agent
from ..config import merge
from ..envs import make_env
from ..errors import ConfigError
from ..factory import get_model_spec, override
from ..operators.specification import OperatorSpec
from ..presets import resolve_preset
from ..training.config import TrainConfig
from .config import OnlineConfig
from .trainer import OnlineResult, OnlineTrainer

SCALED = {"actions": "scaled"}
"""Environments that an agent learns in: vectors of actions run from -1 to 1."""


def train_online(preset: str, env: str, *, run: str | Path, overrides: Mapping[str, Any] | None = None,
                 show_progress: bool = True) -> tuple[Agent, OnlineResult]:
    """Train a preset's agent by acting, or go on with an interrupted run.

    Args:
        preset: Name of a preset with an agent.
        env: Environment of `worldkit.make_env`.
        run: Run folder.
        overrides: Options of the model, and tables ``"agent"``, ``"online"``, ``"train"`` and ``"env"``.
        show_progress: Show a progress bar.
    Returns:
        The trained agent and where the run ended.
    """
    trainer = make_online_trainer(preset, env, run=run, overrides=overrides, show_progress=show_progress)
    result = trainer.fit()
    return trainer.agent.eval(), result


def make_online_trainer(preset: str, env: str, *, run: str | Path, overrides: Mapping[str, Any] | None = None,
                        facts: Mapping[str, Any] | None = None, show_progress: bool = True) -> OnlineTrainer:
    """What `train_online` trains with; arguments as there. Nothing is written before ``fit()``.

    Raises:
        ConfigError: a preset that does not act, an unknown option, or an environment that does not fit.
    """
    spec = require_agent(get_model_spec(preset))
    tables = dict(overrides or {})
    own = {name: _table(tables, name) for name in ("agent", "online", "train", "env")}
    config = OnlineConfig.parse(merge(spec.online, own["online"]))
    train = TrainConfig.parse(merge(spec.train, own["train"]))
    config = config.model_copy(update={"env_options": merge(config.env_options, own["env"])})
    obs = {**spec.config["obs"], **_table(dict(tables), "obs")}
    sees = (obs.get("channels", 3), obs.get("height", 0), obs.get("width", 0))
    vectors = reads_vectors(override(spec.config, tables, spec.alternatives).to_dict())
    make = partial(make_env, env, **seen_as(sees, vectors=vectors), **{**SCALED, **config.env_options})
    with make() as one:
        agent = create_agent(preset, env=one, seed=train.seed, agent=own["agent"], **tables)
    bounds = {"action": {"min": agent.action.low, "max": agent.action.high}} if agent.action.low else None
    if agent.needs_model:
        agent.model.operator = OperatorSpec.of_config(agent.model.config, statistics=bounds, recorded=True,
                                                      resize=config.env_options.get("resize", "stretch"))
    known = {"preset": resolve_preset(preset), "env": env, **(facts or {})}
    make_eval = partial(make, **config.eval_env_options)
    return OnlineTrainer(agent, make, config, train, run=run, facts=known, show_progress=show_progress,
                         make_eval=make_eval)


def seen_as(frame: tuple[int, int, int], *, vectors: bool = False) -> dict[str, Any]:
    """Options of `worldkit.make_env` for frames ``(C, H, W)`` as an agent sees them, and the vectors that it reads."""
    channels, height, width = frame
    return {"size": (height, width), **({"grey": True} if channels == 1 else {}),
            **({"observation": "keys"} if vectors else {})}


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    """Take a table out of the overrides.

    Raises:
        ConfigError: it is none.
    """
    found = tables.pop(name, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name}={found!r} says nothing: an option has a name, -o {name}.OPTION=VALUE")
    return dict(found)
