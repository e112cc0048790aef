"""Latent actions whose prior is a standard normal, whatever was seen: there is no policy to keep a state for."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Normal, full_precision
from ..latents import Latent
from ..nn.quantize import Center
from .base import ActionDist, LatentAction


def quiet_head(dim: int, action_dim: int, std: float) -> nn.Linear:
    """A layer to means and log variances ``[..., 2 * action_dim]`` that begins with about this deviation everywhere.

    Example:
        >>> head = quiet_head(8, 3, 0.1)
        >>> Normal.split(head(torch.zeros(8)))[1].mul(0.5).exp()
        tensor([0.1000, 0.1000, 0.1000], grad_fn=<ExpBackward0>)
    """
    head = nn.Linear(dim, 2 * action_dim)
    with torch.no_grad():
        head.weight[action_dim:].mul_(0.1)
        head.bias[action_dim:].fill_(2 * math.log(std))
    return head


def make_center(kind: str, width: int) -> nn.Module:
    """See `StandardConfig.center`."""
    return Center(width) if kind == "batch" else nn.Identity()


class StandardConfig(ComponentConfig):
    """Options that `factored` and `single` share.

    Attributes:
        initial_std: Deviation of the posterior before training. With as much noise as the prior has, actions say next
            to nothing at first, and the KL may close the channel before it is found.
        center: ``"batch"``: posterior means are made 0 on average and 1 wide over transitions, per number (in training
            of the batch, then of averages of batches): what all transitions share is most of what is read off states
            at first, and would drown how they differ; and the KL cannot shut an action off (BN-VAE, arXiv:2004.12585).
            ``"none"``: the papers.
    """

    initial_std: float = Field(default=0.1, gt=0)
    center: Literal["none", "batch"] = "none"


class StandardPrior(LatentAction):
    """Base of `factored` and `single`: what they are is `read` and `condition`. Their config has ``action_dim``."""

    def _centered(self, raw: Tensor, center: nn.Module) -> ActionDist:
        """Posterior of what a head gave, ``[B, T, K, 2 A]``; ``center`` of K A numbers."""
        mean, logvar = Normal.split(full_precision(raw))
        return ActionDist(Normal(), Normal.pack(center(mean.flatten(2)).unflatten(2, mean.shape[2:]), logvar))

    @abstractmethod
    def read(self, z: Latent) -> ActionDist:
        """Posterior of the T - 1 transitions of T <= window + 1 frames."""

    def _prior(self, batch: int, frames: int) -> ActionDist:
        like = next(self.parameters())
        width = 2 * self.config.action_dim  # type: ignore[attr-defined]  # configs of this kind have it
        return ActionDist(Normal(), like.new_zeros(batch, frames, self.count, width))

    def forward(self, z: Latent, cond: Condition) -> tuple[ActionDist, ActionDist]:
        return self.read(z), self._prior(*z.shape)

    def start(self, z: Latent, cond: Condition, *, streaming: bool = False) -> tuple[ActionDist, int]:
        """Frames beyond ``window + 1`` are read through sliding windows of ``window + 1`` frames."""
        reach, frames = self.window + 1, z.shape[1]
        if frames == 1:
            return self._prior(z.shape[0], 0), z.shape[0]
        found = [self.read(z[:, :reach]).params]
        found += [self.read(z[:, end - reach : end]).params[:, -1:] for end in range(reach + 1, frames + 1)]
        return ActionDist(Normal(), torch.cat(found, 1)), z.shape[0]

    def next(self, carry: int) -> ActionDist:
        return self._prior(carry, 1)

    def observe(self, carry: int, z: Latent, cond: Condition) -> None:
        """Nothing to be told: the prior is the same whatever is seen."""
