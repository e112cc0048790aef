"""Agents on disk: a folder with ``config.json``, ``agent.safetensors``, and the world model it acts through.

The model lies in ``model/`` inside, or is referred to by its place and the digest of its weights; a model that has
changed since is refused. Nothing in the folder can run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import CheckpointError, ConfigError, WorldkitError
from ..model import WorldModel
from ..storage.folders import AGENT_FILE, CONFIG_FILE, WEIGHTS_FILE, digest, write_folder, writing_model
from ..storage.hub import load_folder, locate, save_pretrained
from ..storage.trust import check_built, check_numbers
from ..storage.weights import put, read_weights, stored_shapes, write_weights
from .actions import ActionSpec
from .base import Agent, agents
from .presets import agent_of_preset, is_preset

MODEL_FOLDER = "model"
_OWN = {CONFIG_FILE, AGENT_FILE, MODEL_FOLDER}


def create_agent(
    name: str,
    *,
    env: Any = None,
    action: ActionSpec | None = None,
    frame_shape: tuple[int, int, int] | None = None,
    model: WorldModel | None = None,
    environment: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Agent:
    """An agent that has not learned yet.

    Args:
        name: See `list_agents`; or a preset that acts, ``"dreamer-v3-mini"``: its model is made, too.
        env: Environment of `worldkit.make_env`, which says what actions and frames are.
        action, frame_shape: The same without an environment.
        model: The world model, for those that act through one; it is frozen.
        environment: Where it will act; default: the name of ``env``.
        seed: Of its first weights.
        **options: Of the agent's configuration; of a preset those of its model, as `worldkit.create_model` takes them,
            and ``agent__OPTION``.
    Raises:
        UnknownComponentError: for an unknown name.
        ConfigError: for unknown options, if something is missing, or ``env`` is none.
    Example:
        >>> agent = create_agent("cloning", action=ActionSpec(num_actions=3), frame_shape=(3, 16, 16), hidden_dim=8)
        >>> agent.config.hidden_dim
        8
    """
    observed = None
    if env is not None:
        from .acting import frame_shape_of, name_of, observed_in

        if not hasattr(env, "action_space"):
            raise ConfigError(f"env is an environment, got {env!r}: env = worldkit.make_env('games/catch', size=32), "
                              "then create_agent(name, env=env)")
        observed = observed_in(env)
        action = action or ActionSpec.of_space(env.action_space)
        frame_shape = frame_shape or (frame_shape_of(env) if model is None or model.config.obs.height else None)
        environment = environment or name_of(env)
    if not isinstance(name, str):
        raise ConfigError(f"an agent is named by a text, for example 'cloning', not by {type(name).__name__}")
    if name not in agents and is_preset(name):
        if model is not None:
            raise ConfigError(f"preset '{name}' brings its own model: leave model= out, or name the agent by itself")
        return agent_of_preset(name, action=action, frame_shape=frame_shape, environment=environment, seed=seed,
                               options=options, observed=observed)
    if frame_shape is None and model is not None:
        obs = model.config.obs
        frame_shape = (obs.channels, obs.height, obs.width)
    if action is None or frame_shape is None:
        raise ConfigError("say what actions and frames are: create_agent(name, env=ENVIRONMENT), or action= and "
                          "frame_shape=")
    kind = agents.resolve(name)
    cls = agents.get(kind)
    config = cls.Config.parse({**options, "name": kind})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config, action=action, frame_shape=frame_shape, model=model, environment=environment).eval()


def save_agent(agent: Agent, folder: str | Path, *, facts: Mapping[str, Any] | None = None,
               model: str | Path | None = None) -> Path:
    """Write an agent's folder.

    Args:
        agent: Any agent.
        folder: A new folder, or an earlier agent's, which is replaced in one step.
        facts: What is to be told about its training.
        model: Folder of its world model, to refer to; default: the model is put into the agent's folder.
    Returns:
        The folder.
    Raises:
        CheckpointError: ``folder`` holds something else, or cannot be written, or ``model`` is another model.
    """
    folder = _target(folder)
    about: dict[str, Any] = {
        "worldkit_version": __version__, "agent": agent.config.to_dict(), "action": agent.action.to_dict(),
        "frame_shape": list(agent.frame_shape), "environment": agent.environment, "facts": dict(facts or {}),
    }
    if agent.needs_model:
        about["model"] = _reference(agent, folder, model) if model is not None else {"place": MODEL_FOLDER}

    def fill(new: Path) -> None:
        if about.get("model") == {"place": MODEL_FOLDER}:
            save_pretrained(agent.model, new / MODEL_FOLDER)
            about["model"]["weights"] = digest(new / MODEL_FOLDER / WEIGHTS_FILE)
        write_weights(agent.state_dict(), new / AGENT_FILE, metadata={"format": "pt", "worldkit_version": __version__})
        (new / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    with writing_model(folder):
        write_folder(folder, fill)
    return folder


def _reference(agent: Agent, folder: Path, model: str | Path) -> dict[str, str]:
    """Where the model lies, seen from the agent's folder, and which weights it had."""
    place = locate(model)
    stored = read_weights(place / WEIGHTS_FILE)
    own = agent.model.state_dict()
    if stored.keys() != own.keys() or not all(torch.equal(stored[name], own[name].cpu()) for name in own):
        raise CheckpointError(f"{place} is not the model that this agent acts through: name that one's folder")
    return {"place": os.path.relpath(place, folder), "weights": digest(place / WEIGHTS_FILE)}


def _target(folder: str | Path) -> Path:
    folder = Path(folder).resolve()
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and (not folder.is_dir() or held and (AGENT_FILE not in held or held - _OWN)):
        raise CheckpointError(f"{folder} exists and is no agent's folder; give a new one, so that nothing is lost")
    return folder


def is_agent(folder: str | Path) -> bool:
    """Whether a folder holds an agent."""
    return (Path(folder) / AGENT_FILE).is_file()


def load_agent(folder: str | Path) -> Agent:
    """The agent of a folder, as it was saved.

    Raises:
        CheckpointError: no agent there, a damaged file, or a model that is missing or another one than it was.
    Example::

        policy = load_agent("agents/cloning")
    """
    folder = Path(folder)
    about, weights = _read(folder), folder / AGENT_FILE
    for part in ("agent", "action", "frame_shape"):
        check_numbers(about.get(part), part, folder)
    model = _model_of(folder, about)

    def make() -> Agent:
        return create_agent(
            about["agent"]["name"], action=ActionSpec(**about["action"]), frame_shape=tuple(about["frame_shape"]),
            model=model, environment=about.get("environment"),
            **{k: v for k, v in about["agent"].items() if k != "name"})

    try:
        check_built(make, lambda own: _check_shapes(own, stored_shapes(weights), folder), weights)
        agent = make()
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, WorldkitError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} cannot be used: {error}") from error
    state = read_weights(weights)
    _check_shapes(*({name: list(x.shape) for name, x in s.items()} for s in (agent.state_dict(), state)), folder)
    put(agent, state)
    agent.facts = about.get("facts", {})
    return agent.eval()


def _model_of(folder: Path, about: Mapping[str, Any]) -> WorldModel | None:
    """The world model that an agent acts through."""
    if about.get("model") is None:
        return None
    try:
        place, digest_then = (folder / about["model"]["place"]).resolve(), about["model"].get("weights")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: model: {type(error).__name__}: {error}") from error
    if not (place / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} acts through the model {place}, which is not there: put it back")
    if digest(place / WEIGHTS_FILE) != digest_then:
        raise CheckpointError(f"{folder} was trained with other weights than {place} has now: train the agent "
                              "again, or put the old model back")
    return load_folder(place)


def _check_shapes(own: Mapping[str, list[int]], stored: Mapping[str, list[int]], folder: Path) -> None:
    """Compare name -> shape of an agent's tensors and of those of its file."""
    wrong = sorted(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name))
    if wrong:
        raise CheckpointError(f"{CONFIG_FILE} and {AGENT_FILE} of {folder} disagree: {', '.join(wrong[:5])}")


def _read(folder: Path) -> dict[str, Any]:
    if not is_agent(folder):
        what = "there is no such folder" if not folder.exists() else f"it holds no {AGENT_FILE}"
        raise CheckpointError(f"{folder} is no agent: {what}. worldkit imitate trains one")
    try:
        about = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(about["agent"]["name"], str):
            raise ValueError("the agent has no name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: {type(error).__name__}: {error}") from error
    return about
