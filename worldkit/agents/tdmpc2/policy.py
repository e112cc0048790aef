"""The policy that proposes: a normal distribution, squashed into [-1, 1] by tanh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...distributions import Sampler
from ...nn.simnorm import normed_mlp

_LOW, _HIGH = -10.0, 2.0
_HALF_LOG_2PI = 0.9189385175704956
"""As the official code has it: a float32 would hold another last digit."""


@dataclass(frozen=True)
class Choice:
    """What a policy would do.

    Attributes:
        action: Drawn, ``[..., A]`` in [-1, 1].
        mean: The squashed mean, likewise.
        log_std: Of the normal distribution before tanh, ``[..., A]``.
        entropy: Minus the log-density of the action, ``[...]``.
        scaled_entropy: The same times A times the ratio of the log-densities before and after tanh, ``[...]``: what the
            policy is rewarded for, whose size does not depend on the number of dimensions as the entropy's does.
    """

    action: Tensor
    mean: Tensor
    log_std: Tensor
    entropy: Tensor
    scaled_entropy: Tensor


class SquashedPolicy(nn.Module):
    """Latents ``[..., D]`` -> `Choice`.

    Example:
        >>> policy = SquashedPolicy(16, 2, (8, 8))
        >>> policy(torch.zeros(5, 16), Sampler()).action.shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.net = normed_mlp(latent_dim, hidden, 2 * action_dim)

    def forward(self, z: Tensor, sampler: Sampler) -> Choice:
        mean, raw = self.net(z).chunk(2, -1)
        log_std = _LOW + 0.5 * (_HIGH - _LOW) * (torch.tanh(raw) + 1)
        noise = sampler.normal("policy", torch.zeros_like(mean), torch.zeros_like(mean))
        inner = (-0.5 * noise.square() - log_std - _HALF_LOG_2PI).sum(-1)
        action = torch.tanh(mean + noise * log_std.exp())
        density = inner - torch.log(torch.relu(1 - action.square()) + 1e-6).sum(-1)
        scaled = -density * (mean.shape[-1] * inner / (density + 1e-8))
        return Choice(action, torch.tanh(mean), log_std, -density, scaled)
