"""From the options of ``worldkit plan`` to what is to be planned."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...batch import Batch
from ...data import action_statistics, collate
from ...data.fit import fit_video
from ...errors import ConfigError
from ...files import reason
from ...latents import Latent
from ...planning import Continuous, Discrete, Planner, Shooting, make_cost, make_planner
from ...planning.spaces import Space
from ...training.recipes import open_clips, resize_note
from ..loading import Loaded, protocol
from ..options import overrides_of

ACTION = "action"


@dataclass(frozen=True)
class Asked:
    """One problem.

    Attributes:
        task: What candidates cost.
        planner: Who searches.
        given: The frames given, ``[T, 3, H, W]``.
        goal: ``[3, H, W]`` or None, and ``wanted``, what it is, in words.
        horizon: Actions to plan.
        told: The actions that were taken in the data on the way to the goal, ``[1, 1, horizon, *action]``, if known.
        facts: What was chosen by itself.
    """

    task: Shooting
    planner: Planner
    given: Tensor
    goal: Tensor | None
    wanted: str
    horizon: int
    told: Tensor | None
    facts: list[str]


def ask(loaded: Loaded, data: str, options: Namespace, data_options: Mapping[str, Any]) -> Asked:
    """The problem that is meant.

    Raises:
        ConfigError: a clip, frame or bound out of range, or a model that cannot be planned with.
        DataError: see `worldkit.data.open_dataset`.
    """
    model = loaded.model.to(options.device).eval()
    if model.config.obs.views > 1:
        raise ConfigError(f"worldkit plan shows one camera, and this model has {model.config.obs.views}. In Python: "
                          "worldkit.planning.Shooting")
    if model.dynamics is None:
        raise ConfigError(f"{loaded.place} has no dynamics and predicts nothing, so there is nothing to plan with: "
                          "train one that does (worldkit train PRESET --data ... -o conditioners.action=action), or "
                          "try worldkit plan lpwm-push-mini")
    check_told(model, loaded.place)
    context, horizon = protocol(options, loaded)
    ahead = _ahead(options.goal, horizon)
    _check_read(model, options, ahead)
    clips = open_clips(model, data, split=options.split, num_frames=context + max(ahead or 0, horizon), **data_options)
    if options.clip >= len(clips):
        raise ConfigError(f"--clip {options.clip} is out of range: split '{options.split}' of {data} has {len(clips)} "
                          f"clips of {clips[0]['video'].shape[-4]} frames, 0 to {len(clips) - 1}")
    item = clips[options.clip]
    batch = collate([item]).to(options.device)
    facts = [f"clip: {data}, {clips.source.episode_name(item['episode'])} (clip {options.clip} of '{options.split}')"]
    facts += [note] if (note := resize_note(options.model, loaded.facts, clips)) else []
    space = _space(model, clips, options, facts)
    cost = make_cost(options.cost)
    goal, wanted = _goal(batch, options, context, ahead, clips) if cost.needs_goal else (None, "")
    taken = batch.conditions[ACTION]
    given, wish = batch.video[:, :context], None if goal is None else goal[None]
    if model.config.vectors:  # they are seen beside the pictures, in the goal, too
        given = _seen(model, batch, context)
        wish = None if goal is None else _seen(model, batch, context + ahead)[:, -1:]
    task = Shooting(model, given, cost, goal=wish, space=space, past=taken[:, : context - 1] if context > 1 else None,
                    conditions=_others(model, batch))
    told = taken[:, None, context - 1 : context - 1 + horizon] if ahead == horizon and goal is not None else None
    return Asked(task, planner_of(space, options), batch.video[0, :context], goal, wanted, horizon, told, facts)


def _check_read(model: Any, options: Namespace, ahead: int | None) -> None:
    """Refuse a model without pictures, and of one that reads vectors, too, a goal that has none."""
    vectors = ", ".join(model.config.vectors)
    if not model.config.obs.height:
        raise ConfigError(f"worldkit plan shows pictures, and this model reads vectors alone ({vectors}). In Python: "
                          "worldkit.planning.Shooting, with latents as context and goal")
    if vectors and ahead is None:
        raise ConfigError(f"--goal {options.goal} is a picture, and this model reads vectors beside pictures "
                          f"({vectors}): say how many frames after the last given one, --goal 5")


def check_told(model: Any, place: str) -> None:
    """Refuse a model that is told no actions, before data are opened.

    Raises:
        ConfigError: naming what it is told.
    """
    if ACTION not in model.config.conditioners:
        raise ConfigError(
            f"{place} is told no actions, so there is nothing to plan; it is told: "
            f"{', '.join(model.config.conditioners) or 'nothing'}. Train one that is: worldkit train PRESET --data ... "
            "-o conditioners.action=action, or try worldkit plan lpwm-push-mini"
        )


def check_words(options: Namespace) -> None:
    """Refuse a cost or a planner that there is none of, and its options, before anything is loaded.

    Raises:
        ConfigError: naming those there are.
    """
    make_cost(options.cost)
    if options.planner:
        planner_of(None, options)


def planner_of(space: Space | None, options: Namespace) -> Planner:
    """The planner that the options name, or the one that goes with the actions."""
    name = options.planner or ("categorical-cem" if isinstance(space, Discrete) else "cem")
    given = dict(overrides_of(options).get("planner", {}))
    given |= {k: v for k in ("candidates", "iterations") if (v := getattr(options, k)) is not None}
    if name == "gradient":
        return make_planner(name, **given)
    if name != "predictive-sampling":
        given = {"iterations": 10} | given
    given = {"candidates": 200} | given
    if name != "predictive-sampling" and isinstance(given["candidates"], int):
        given = {"elites": max(2, given["candidates"] // 10)} | given
    return make_planner(name, **given)


@torch.no_grad()
def _seen(model: Any, batch: Batch, frames: int) -> Latent:
    """What is seen in the first frames."""
    return model.encode(batch.context(frames), conditions={**_others(model, batch), ACTION: batch.conditions[ACTION]})


def _others(model: Any, batch: Batch) -> dict[str, Any]:
    return {k: v for k, v in batch.conditions.items() if k != ACTION and k in model.config.conditioners}


def _ahead(goal: str | None, horizon: int) -> int | None:
    """Frames from the last given one to the goal; None: the goal is a picture of its own."""
    if goal is None:
        return horizon
    if goal.lstrip("-").isdigit():
        if int(goal) < 1:
            raise ConfigError(f"--goal {goal} must be a file, or how many frames after the last given one: 1 or more")
        return int(goal)
    return None


def _goal(batch: Batch, options: Namespace, context: int, ahead: int | None, clips: Any) -> tuple[Tensor, str]:
    if ahead is not None:
        frame = context + ahead - 1
        return batch.video[0, frame], f"frame {frame} of the clip, {ahead} after the last given"
    return read_picture(options.goal, clips).to(options.device), options.goal


def read_picture(path: str, clips: Any) -> Tensor:
    """A picture at the size of the frames, as theirs are made, ``[3, H, W]`` uint8.

    Raises:
        ConfigError: it cannot be read.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(Path(path)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"--goal {path} is no number of frames, and cannot be read as a picture: {reason(error)}"
                          ) from error
    size = tuple(clips[0]["video"].shape[-2:])
    fitting = clips.source.fitting
    resize = "pad" if fitting is None else fitting.resize
    return torch.from_numpy(fit_video(np.moveaxis(pixels, -1, 0)[None], size, resize))[0]


def _space(model: Any, clips: Any, options: Namespace, facts: list[str]) -> Space:
    """What the options say, else what the data have."""
    config = model.config.conditioners[ACTION]
    if getattr(config, "num_actions", None) is not None:
        if options.low is not None or options.high is not None:
            raise ConfigError(f"--low and --high are bounds of numbers, and these actions are {config.num_actions} "
                              "choices: leave them out")
        return Discrete(config.num_actions)
    found = action_statistics(clips.source, model.config.columns[ACTION])
    bounds = []
    for option, known in (("low", found.min), ("high", found.max)):
        given = getattr(options, option)
        if given is None:
            given = [round(float(x), 4) for x in known]
        elif len(given) not in (1, config.dim):
            raise ConfigError(f"--{option} takes one number, or {config.dim}, one for each of an action; got "
                              f"{len(given)}")
        bounds.append(tuple(given) * (config.dim if len(given) == 1 else 1))
    for number, (low, high) in enumerate(zip(*bounds, strict=True)):
        if not low < high:
            raise ConfigError(f"number {number} of the actions lies between {low:g} and {high:g} (in the data): say "
                              "--low and --high")
    if options.low is None or options.high is None:
        told = [", ".join(f"{x:g}" for x in side) for side in bounds]
        facts.append(f"actions: from {told[0]} to {told[1]}, as in the data; --low and --high say otherwise")
    return Continuous(*bounds)
