"""Agents by the name of a preset: ``create_agent("dreamer-v3-mini", env=env)``, model and all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .. import registry as registries
from ..assembly import build
from ..config import WorldModelConfig, merge, nest
from ..errors import ConfigError, UnknownComponentError
from ..factory import override
from ..presets import ModelSpec, preset_names, preset_spec, resolve_preset
from .actions import ActionSpec
from .base import Agent, agents


def acting_presets(pattern: str = "*") -> list[str]:
    """Presets that have an agent.

    Args:
        pattern: Shell-style.
    """
    return [name for name in preset_names(pattern) if preset_spec(name).agent]


def is_preset(name: str) -> bool:
    """Whether there is a preset of that name, acting or not."""
    try:
        resolve_preset(name)
    except UnknownComponentError:
        return False
    return True


def require_agent(spec: ModelSpec) -> ModelSpec:
    """The preset itself, if it acts.

    Raises:
        ConfigError: naming those that do.
    """
    if not spec.agent:
        raise ConfigError(f"preset '{spec.name}' is a world model and does not act. Those that do: "
                          f"{', '.join(acting_presets())}; worldkit plan and worldkit control --plan act through any "
                          "model that is told actions")
    return spec


def model_for(base: Mapping[str, Any], action: ActionSpec, overrides: Mapping[str, Any] | None = None,
              alternatives: Mapping[str, Any] | None = None,
              observed: Mapping[str, Mapping[str, int]] | None = None) -> WorldModelConfig:
    """A preset's model, told the actions of an environment.

    Args:
        base: Nested dict of a `WorldModelConfig`.
        action: Actions of the environment.
        observed: What it lets a model observe beside the picture, see `worldkit.agents.acting.observed_in`: a model
            that reads vectors reads these, unless overrides name others.
        overrides, alternatives: As of `worldkit.factory.override`.
    Raises:
        ConfigError: the model is told no actions.
    """
    config = override(base, overrides or {}, alternatives)
    if "action" not in config.conditioners:
        raise ConfigError("an agent learns in a model that is told what it does: give it conditioners.action")
    known = {"num_actions": action.num_actions} if action.discrete else {"dim": action.width}
    options = {name: value for name, value in config.conditioners["action"].to_dict().items()
               if name not in ("dim", "num_actions")}
    table = config.to_dict()
    table["conditioners"] = {**table["conditioners"], "action": {**options, **known}}
    asked = nest(overrides or {}).get("obs", {})
    if reads_vectors(table) and observed and not {"vectors", "discrete", "columns"} & {*asked}:
        table["obs"] = {**table["obs"], "columns": {}, **observed}
    return WorldModelConfig.parse(table)


def reads_vectors(config: Mapping[str, Any]) -> bool:
    """Whether the encoder of a model, given as a nested dict, reads vectors beside the picture."""
    encoder = config.get("encoder", {})
    return registries.encoders.get(encoder if isinstance(encoder, str) else encoder["name"]).reads_vectors


def own_actions(config: WorldModelConfig) -> ActionSpec:
    """The actions that a preset's model is told without an environment, from -1 to 1 if they are vectors."""
    told = config.conditioners["action"]
    if getattr(told, "num_actions", None) is not None:
        return ActionSpec(num_actions=told.num_actions)
    return ActionSpec((-1.0,) * (told.dim or 1), (1.0,) * (told.dim or 1))


def agent_of_preset(name: str, *, action: ActionSpec | None, frame_shape: tuple[int, int, int] | None,
                    environment: str | None, seed: int, options: Mapping[str, Any],
                    observed: Mapping[str, Mapping[str, int]] | None = None) -> Agent:
    """The agent of a preset and its model, both with their first weights.

    Args:
        name: Of the preset.
        action, frame_shape: What the environment takes and shows; None: the preset's own.
        environment: Its name.
        seed: Of the first weights.
        options: Of the model, dotted or nested; those of the agent under ``"agent"``.
        observed: What the environment gives beside the picture; see `model_for`.
    Raises:
        ConfigError: unknown options, or an environment that does not fit.
    """
    spec = require_agent(preset_spec(name))
    overrides = nest(options)
    own = overrides.pop("agent", {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"agent={own!r} says nothing: an option has a name, agent__OPTION=VALUE")
    config = model_for(spec.config, action or own_actions(override(spec.config, overrides, spec.alternatives)),
                       overrides, spec.alternatives, observed)
    action = action or own_actions(config)
    sees = (config.obs.channels, config.obs.height, config.obs.width)
    if frame_shape is not None and tuple(frame_shape) != sees and config.obs.height:
        _, h, w = sees
        raise ConfigError(f"preset '{spec.name}' sees frames {list(sees)}, the environment shows {list(frame_shape)}: "
                          f"make it with size={h if h == w else (h, w)}, or give obs__height and obs__width")
    kind = agents.resolve(spec.agent["name"])
    cls = agents.get(kind)
    parsed = cls.Config.parse(merge({**spec.agent, "name": kind}, own))
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return cls(parsed, action=action, frame_shape=sees, model=build(config), environment=environment).eval()
