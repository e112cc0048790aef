"""Checkpoints of a run that acts: ``checkpoints/step-00010000/`` with ``agent/``, an agent's folder, and ``state.pt``.

The episodes are not in it but in ``data/``; a checkpoint says which of them it knows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..agents.base import Agent
from ..agents.folder import AGENT_FILE, MODEL_FOLDER, is_agent, save_agent
from ..config import differences
from ..errors import CheckpointError, TrainingError
from ..storage import weights
from ..storage.folders import WEIGHTS_FILE, read_json, write_folder
from ..storage.hub import load_weights as put_weights
from ..storage.state import read_state, write_state
from ..training.checkpoint import prune, step_of, writing
from ..training.record import RECORD_FILE, surroundings, write_record

AGENT = "agent"
KEPT = ("agent", "action", "model", "environment", "action_space", "options")
"""What stays for the life of a run."""
KEPT_OPTIONS = ("online.num_envs", "online.length", "online.cross", "online.queue", "online.prefill",
                "online.prefill_by", "online.pretrain", "online.context", "online.reward", "train.batch_size",
                "train.seed")
"""Options that stay: the order of its random numbers rests on them."""


def save_checkpoint(run: Path, agent: Agent, state: dict[str, Any], *, keep: int, facts: Mapping[str, Any]) -> Path:
    """Write ``run/checkpoints/step-N`` and remove older ones.

    Args:
        run: Run folder.
        agent: What is trained, with its model.
        state: Tensors and plain values; ``state["progress"]["steps"]`` is N.
        keep: How many checkpoints stay.
        facts: Told in the agent's folder.
    Raises:
        TrainingError: it cannot be written, or a weight is not finite.
    """
    step = state["progress"]["steps"]
    for part in (agent, agent.model):
        bad = [name for name, x in part.state_dict().items() if x.is_floating_point() and not torch.isfinite(x).all()]
        if bad:
            raise TrainingError(f"weights are not finite any more after step {step}: {', '.join(bad[:3])}. The last "
                                f"checkpoint in {run / 'checkpoints'} is good still; a lower learning rate is the "
                                "usual cure")

    def fill(folder: Path) -> None:
        save_agent(agent, folder / AGENT, facts=facts)
        write_state(state, folder)

    place = run / "checkpoints" / f"step-{step:08d}"
    with writing(place, run, step):
        write_folder(place, fill)
    prune(run, step, keep=keep)
    return place


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that can be read, None if there is none; damaged ones are passed over with a warning.

    Raises:
        CheckpointError: there are some, and not one can be read.
    """
    folders = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    for folder in folders:
        try:
            read_state(folder)
            weights.read_weights(folder / AGENT / AGENT_FILE)
            weights.read_weights(folder / AGENT / MODEL_FOLDER / WEIGHTS_FILE)
            return folder
        except Exception as error:  # any damage; an older checkpoint is better than none
            warnings.warn(f"checkpoint {folder} cannot be read ({type(error).__name__}: {error})", stacklevel=2)
    if folders:
        raise CheckpointError(f"none of the {len(folders)} checkpoint(s) in {run / 'checkpoints'} can be read (see the "
                              "warnings): give a new run folder, or delete them to begin anew")
    return None


def load_weights(folder: Path, agent: Agent) -> dict[str, Any]:
    """Put the weights of a checkpoint into an agent and its model; gives the rest of its state.

    Raises:
        CheckpointError: they do not fit.
    """
    state = read_state(folder)
    put_weights(agent, weights.read_weights(folder / AGENT / AGENT_FILE), where=str(folder / AGENT))
    model = folder / AGENT / MODEL_FOLDER
    put_weights(agent.model, weights.read_weights(model / WEIGHTS_FILE), where=str(model))
    return state


def find_agent(place: str | Path) -> Path:
    """The agent's folder meant by a path: itself, or of a run folder ``best/``, else its newest checkpoint's.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(place)
    for found in (folder, folder / "best"):
        if is_agent(found):
            return found
    newest = newest_checkpoint(folder)
    if newest is None:
        what = "there is no such folder" if not folder.exists() else "it holds no agent, no best/ and no checkpoints/"
        raise CheckpointError(f"{folder} is no agent: {what}. worldkit train-agent PRESET --env ENV trains one")
    return newest / AGENT


def open_record(run: Path, record: Mapping[str, Any], newest: Path | None) -> None:
    """Write ``run.json``, or see that a run that goes on is the one that was begun.

    Raises:
        TrainingError: it is another one, saying in what.
    """
    now = json.loads(json.dumps({**record, **surroundings()}, default=str))
    began = read_json(run / RECORD_FILE)
    if newest is None or not began:
        if newest is None:
            write_record(run, now)
        return
    for name in KEPT:
        if began.get(name) != now.get(name):
            first, *others = differences(now.get(name), began.get(name), name)
            more = f" (and {len(others)} more)" if others else ""
            raise TrainingError(f"run folder {run} belongs to another {_WHAT.get(name, name)}: {first}{more}. Give the "
                                "options it began with, another folder (--run), or delete it")
    then, here = _options(began), _options(now)
    changed = {name: [then.get(name), here.get(name)] for name in sorted({*then, *here})
               if then.get(name) != here.get(name)}
    if kept := [name for name in KEPT_OPTIONS if name in changed]:
        name = kept[0]
        raise TrainingError(f"run {run} cannot go on with another {name}: it began with {changed[name][0]}, not "
                            f"{changed[name][1]}. Leave it as it was, or give another folder (--run)")
    entry = {"step": step_of(newest), "command": now["command"], "commit": now["commit"], "changed": changed}
    write_record(run, {**began, "resumed": [*began.get("resumed", []), entry]})


_WHAT = {"action": "action space", "action_space": "action space", "options": "environment"}


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part in ("online", "train") for name, value in record.get(part, {}).items()}
