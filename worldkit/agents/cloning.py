"""Goal-conditioned behaviour cloning: a small convolutional network from frame and goal to action, the baseline.

It knows no model and remembers nothing. On data of undirected play with hindsight goals (``goals=`` of
`worldkit.data.open_dataset`) this is goal-conditioned supervised learning (GCSL, arXiv:1912.06088): whatever was done
on the way to a frame is what one does to get there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..batch import Batch, to_float_video
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from .base import Agent


class CloningConfig(ComponentConfig):
    """Options of behaviour cloning.

    Attributes:
        channels: Of the convolutions, each of which halves the picture.
        hidden_dim: Width of the two layers behind them.
        goal: Whether it is told a goal; False: plain behaviour cloning.
    """

    name: str = "cloning"
    channels: tuple[PositiveInt, ...] = (32, 64, 64)
    hidden_dim: int = Field(default=256, gt=0)
    goal: bool = True


class Cloning(Agent):
    """Frame (and goal) -> action. Vectors are learned by mean squared error in units of their bounds, choices by
    cross-entropy; when acting, choices are drawn as often as they were made, or the likeliest is taken if the sampler
    is deterministic.

    Example:
        >>> from worldkit.agents import ActionSpec
        >>> agent = Cloning(CloningConfig(channels=(8,)), action=ActionSpec(num_actions=3), frame_shape=(3, 16, 16))
        >>> carry = agent.start(2, goal=torch.zeros(2, 3, 16, 16))
        >>> frame, first = torch.zeros(2, 3, 16, 16), torch.ones(2, dtype=bool)
        >>> agent.act(frame, carry, first=first, sampler=Sampler(deterministic=True))[0].shape
        torch.Size([2])
    """

    Config = CloningConfig
    config: CloningConfig

    def __init__(self, config: CloningConfig, **wiring: Any):
        super().__init__(config, **wiring)
        self.wants_goal = config.goal
        c, height, width = self.frame_shape
        shortest = 2 ** len(config.channels)
        if min(height, width) < shortest:
            raise ConfigError(f"cloning: {len(config.channels)} convolutions halve a frame to less than a pixel, which "
                              f"is {height} x {width}; give fewer channels")
        widths = [c * (1 + config.goal), *config.channels]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.see = nn.Sequential(*layers, nn.Flatten())
        flat = widths[-1] * (height // shortest) * (width // shortest)
        hidden = config.hidden_dim
        self.decide = nn.Sequential(nn.Linear(flat, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, hidden),
                                    nn.ReLU(), nn.Linear(hidden, self.action.width))

    def forward(self, frame: Tensor, goal: Tensor | None) -> Tensor:
        """Scores of choices, or numbers in units of the bounds, ``[B, A]``."""
        parts = [to_float_video(frame)] + ([to_float_video(goal, name="goal")] if self.config.goal else [])
        return self.decide(self.see(torch.cat(parts, 1) - 0.5))

    def loss(self, batch: Batch) -> Tensor:
        action = batch.conditions["action"][:, 0]
        found = self(batch.video[:, 0], batch.conditions.get("goal_image"))
        return F.cross_entropy(found, action) if self.action.discrete else F.mse_loss(found, self.action.scaled(action))

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Tensor | None:
        if not self.config.goal:
            return None
        if goal is None:
            raise ConfigError("agent 'cloning' acts towards a goal: start(batch_size, goal=PICTURES)")
        self.check_frame(goal, "goal")
        return goal

    @torch.no_grad()
    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        self.check_frame(frame)
        device = next(self.parameters()).device
        found = self(frame.to(device), None if carry is None else carry.to(device)).cpu()
        return sampler.categorical("action", found) if self.action.discrete else self.action.unscaled(found), carry
