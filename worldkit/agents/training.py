"""Training an agent's own weights on recorded episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..batch import Batch
from ..config import Config
from ..data import ClipDataset, collate, open_dataset
from ..data.trained import as_trained
from ..errors import ConfigError, DataError, TrainingError
from ..progress import Meter
from .actions import ActionSpec, spec_of_text
from .base import Agent


class AgentTraining(Config):
    """Options of `train_agent`.

    Attributes:
        steps: Optimiser steps.
        batch_size: Clips a step.
        lr: Learning rate of Adam; it falls to 0 along a cosine.
        weight_decay: Of AdamW.
        goals: Frames that a goal may lie ahead; None: the data's own goals, or an agent without goals.
        seed: Of the order of clips.
        valid_every: Steps between looks at validation clips.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    goals: int | None = None
    seed: int = 0
    valid_every: int = 250


@dataclass(frozen=True)
class TrainedAgent:
    """What a training came to.

    Attributes:
        losses: By step, ``(step, training, validation)``, each a mean since the last look.
        resize: What became of pictures of another shape than the agent's; None: the recordings had none.
    """

    losses: tuple[tuple[int, float, float], ...]
    resize: str | None = None


def acts_in(data: str) -> tuple[ActionSpec, str] | None:
    """Actions and name of the environment that ``worldkit collect`` wrote a folder from; None of other data."""
    import json

    from ..collecting.folder import ABOUT

    try:
        about = json.loads((Path(data).expanduser() / ABOUT).read_text(encoding="utf-8"))
        return spec_of_text(about["action_space"]), about["environment"].removeprefix("environment ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def open_agent_clips(agent: Agent, data: str, config: AgentTraining, split: str, options: Mapping[str, Any]
                     ) -> ClipDataset:
    """Clips as an agent is trained on.

    Raises:
        ConfigError: the agent wants goals, and there are none.
        DataError: see `worldkit.data.open_dataset`.
    """
    _, height, width = agent.frame_shape
    options = as_trained(agent.model.operator, data, options) if agent.needs_model else options
    clips = open_dataset(data, split=split, num_frames=agent.clip_length(), height=height, width=width,
                         goals=config.goals, **options)
    item = clips[0]
    if "action" not in item:
        raise DataError(f"{data} holds no actions, which an agent learns; worldkit data inspect tells what it has")
    if agent.wants_goal and "goal_image" not in item:
        raise ConfigError(f"agent '{agent.config.name}' acts towards goals, and {data} has none: --goals 20 takes what "
                          "was reached, up to so many frames later")
    agent.action.check_column(item["action"])
    return clips


def _batches(clips: ClipDataset, size: int, generator: torch.Generator) -> Callable[[], Batch]:
    def draw() -> Batch:
        return collate([clips[i] for i in torch.randint(len(clips), (size,), generator=generator).tolist()])

    return draw


def train_agent(
    agent: Agent,
    data: str,
    *,
    config: AgentTraining | None = None,
    data_options: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> TrainedAgent:
    """Train an agent in place on recorded episodes; what it acts through stays as it is.

    Args:
        agent: Of `create_agent`.
        data: What `worldkit.data.open_dataset` recognises, with actions.
        config: Options of training.
        data_options: Options of the data format.
        show_progress: Show a progress bar.
    Raises:
        ConfigError: actions or goals that do not fit.
        TrainingError: a loss that is not finite.
    """
    config = config or AgentTraining()
    if not agent.trains:
        raise ConfigError(f"agent '{agent.config.name}' has no weights of its own to train: it acts as it is, worldkit "
                          "control ENV --plan MODEL")
    options = dict(data_options or {})
    generator = torch.Generator().manual_seed(config.seed)
    train = _batches(open_agent_clips(agent, data, config, "train", options), config.batch_size, generator)
    held = open_agent_clips(agent, data, config, "val", options)
    looks = torch.Generator().manual_seed(config.seed + 1)
    valid = [_batches(held, config.batch_size, looks)() for _ in range(4)]
    optimizer = torch.optim.AdamW(agent.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    losses: list[tuple[int, float, float]] = []
    running: list[float] = []
    agent.train()
    with Meter(f"training {agent.config.name}", total=config.steps, enabled=show_progress) as meter:
        for step in range(1, config.steps + 1):
            loss = agent.loss(train())
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss is {loss.item()} at step {step}: take a lower learning rate, --lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(agent.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            running.append(loss.item())
            if step % config.valid_every == 0 or step == config.steps:
                losses.append((step, sum(running) / len(running), _validate(agent, valid)))
                running = []
            meter.update(step, terms=[f"loss {loss.item():.4g}"])
    agent.eval()
    fitting = held.source.fitting
    return TrainedAgent(tuple(losses), fitting.resize if fitting is not None and fitting.matters else None)


@torch.no_grad()
def _validate(agent: Agent, batches: list[Batch]) -> float:
    agent.eval()
    mean = sum(agent.loss(batch).item() for batch in batches) / len(batches)
    agent.train()
    return mean
